//go:build !race

package shellflip_test

const raceEnabled = false
