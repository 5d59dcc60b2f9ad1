//go:build linux && cgo && !shellflip_static

package shellflip

// #cgo pkg-config: shellflip
import "C"
