module bench

go 1.19

require (
	github.com/cloudflare/tableflip v1.2.3
	github.com/libshellflip/libshellflip/bindings/go v0.0.0
)

replace github.com/libshellflip/libshellflip/bindings/go => ../../../bindings/go
