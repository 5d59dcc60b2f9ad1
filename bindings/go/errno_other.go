//go:build !linux

package shellflip

import "syscall"

// Not every system has a number for it, and there is nothing here that could time out.
const errTime = syscall.ETIMEDOUT
