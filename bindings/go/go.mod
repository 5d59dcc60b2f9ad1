module github.com/libshellflip/libshellflip/bindings/go

go 1.19
