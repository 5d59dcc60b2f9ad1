module github.com/libshellflip/libshellflip/benches/go

go 1.19

require github.com/libshellflip/libshellflip/bindings/go v0.0.0

replace github.com/libshellflip/libshellflip/bindings/go => ../../bindings/go
