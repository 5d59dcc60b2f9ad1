package shellflip

import "syscall"

const errTime = syscall.ETIME
