// The same with cgo, which has the dynamic linker and the C library started first.
package main

// #include <unistd.h>
import "C"

import (
	"os"
	"unsafe"
)

func main() {
	var one byte
	if C.write(3, unsafe.Pointer(&one), 1) != 1 {
		os.Exit(1)
	}
}
