//go:build race

package shellflip_test

const raceEnabled = true
