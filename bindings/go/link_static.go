//go:build linux && cgo && shellflip_static

package shellflip

// The archive has one object whose only visible symbols are the interface's, so that it can be linked beside another
// archive that was made from Rust.

// #cgo pkg-config: shellflip-static
import "C"
