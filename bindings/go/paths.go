package shellflip

import (
	"path/filepath"
	"strings"
)

// The paths of unix sockets that were made outside of the library (by a callback, by Options.ListenConfig, by
// AddListener, relative ones). The library unlinks only what it has made, when the service ends; this does the same for the others.

// notePath remembers which socket the path leads to.
func (f *Fds) notePath(network, addr string) {
	if !strings.HasPrefix(network, "unix") || addr == "" || addr[0] == '@' || addr[0] == 0 {
		return
	}
	path, err := filepath.Abs(addr) // the directory may be another one by the end
	if err != nil {
		return
	}
	id, there := identify(path)
	if !there {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paths == nil {
		f.paths = make(map[string]fileID)
	}
	f.paths[path] = id
}

// unlinkPaths: the service ends with this process. After an upgrade the paths are the successor's, and before Ready
// the predecessor's.
func (f *Fds) unlinkPaths() {
	ends := f.upg.Reason() == Stopped && f.upg.ready.Load() || f.upg.Generation() == 0 && f.upg.Reason() != Upgraded
	if !ends {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, id := range f.paths {
		unlinkIfSame(path, id)
	}
	f.paths = nil
}

// droppedPaths are the paths of inherited unix sockets that nobody has asked for.
func (f *Fds) droppedPaths() map[string]fileID {
	dropped := make(map[string]fileID)
	names, _ := f.upg.core.inherited()
	for _, name := range names {
		path, is := unixPath(name)
		if !is {
			continue
		}
		path, err := filepath.Abs(path)
		if err != nil {
			continue
		}
		if id, there := identify(path); there {
			dropped[path] = id
		}
	}
	return dropped
}

// unlinkDropped removes them once the predecessor, which serves them to its end, has exited.
func (f *Fds) unlinkDropped(dropped map[string]fileID) {
	if f.upg.core.waitPredecessor() != nil {
		return
	}
	for path, id := range dropped {
		unlinkIfSame(path, id)
	}
}
