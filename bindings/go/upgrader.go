package shellflip

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Upgrader replaces this process by a new one, and passes sockets and files between the two. Its methods may be
// called from any goroutine.
type Upgrader struct {
	*Fds

	core    *core
	options Options

	begun   atomic.Bool // Ready was called
	ready   atomic.Bool // Ready has returned nil
	failLog atomic.Bool // failures are logged

	closing  chan struct{} // closed when shutdown has fired
	quiet    atomic.Bool   // nothing more is accepted
	exit     chan struct{} // closed when, after that, the host may end
	reason   Reason        // read after closing is closed
	fired    time.Time     // the same
	draining drainContext
	drained  struct {
		sync.Mutex
		wait *drainWait // one that is under way
	}
	context  context.Context
	cancel   context.CancelFunc
	orphaned struct {
		once sync.Once
		done chan struct{}
		err  error
	}
	finish sync.Once
	ended  atomic.Bool // it is being freed
	freed  chan struct{}
}

// Reason is why a process exits.
type Reason int

const (
	// NotExiting: it does not.
	NotExiting Reason = iota
	// Upgraded: its successor serves.
	Upgraded
	// Stopped: the service ends, or Stop was called before Ready.
	Stopped
)

// String says it in a word.
func (r Reason) String() string {
	switch r {
	case Upgraded:
		return "upgraded"
	case Stopped:
		return "stopped"
	}
	return "not exiting"
}

// New finds out what this process was started with. There is one Upgrader per process at a time. Call it early,
// before other goroutines read or change the environment: it removes the variables that were meant for this process,
// from os.Environ too. The environment and standard input, output and error at this moment are what the next
// generation starts with; the directory, the signal mask, the ignored signals and the soft limit of descriptors are
// those that there were when the library was loaded, which is when the program started.
//
// It returns ErrNotSupported where there can be no upgrades, and an *Error otherwise: EBUSY, there is an Upgrader
// already; EPROTO, this process was started by an upgrade and something is wrong with that; EINVAL, an option.
func New(options Options) (*Upgrader, error) {
	options.fill()
	made, err := newCore(options.core())
	if err != nil {
		return nil, err
	}
	u := &Upgrader{
		core:    made,
		options: options,
		closing: make(chan struct{}),
		exit:    make(chan struct{}),
		freed:   make(chan struct{}),
	}
	u.orphaned.done = make(chan struct{})
	u.draining.Context, u.draining.done = context.Background(), make(chan struct{})
	u.context, u.cancel = context.WithCancel(context.Background())
	config := options.ListenConfig
	if config == nil {
		config = new(net.ListenConfig)
	}
	u.Fds = &Fds{upg: u, config: config}
	go u.watchShutdown()
	go u.readEvents()
	return u, nil
}

// Ready says that this process could serve, and waits until it may: listeners accept from then on, whenever Serve was
// called. In the first generation that is at once; a successor waits until its predecessor lets it, or is dead.
//
// Inherited descriptors that nobody has asked for are closed afterwards, and unix paths among them are unlinked.
//
// An *Error with one of these means that this process is not wanted, and should exit: ECANCELED, the predecessor gave
// up or Stop was called; ETIME, it was not let by the upgrade deadline; EPROTO. With these Ready can be called again:
// ENOENT, members of an inherited group of SO_REUSEPORT listeners were not claimed; ECONNRESET, a state was promised
// and lost, and State has not been called.
func (u *Upgrader) Ready() error {
	u.begun.Store(true)
	dropped := u.Fds.droppedPaths()
	if err := u.core.ready(); err != nil {
		return err
	}
	if !u.ready.Swap(true) && len(dropped) > 0 && u.HasParent() {
		go u.Fds.unlinkDropped(dropped)
	}
	u.Fds.serve()
	return nil
}

// Upgrade replaces this process by a new one, and returns nil once the new one has taken over; Exit is closed soon.
// Otherwise this process serves on as before, and the *Error says why in its Failure.
func (u *Upgrader) Upgrade() error {
	if _, err := u.core.upgrade(); err != nil {
		return err
	}
	<-u.closing
	return nil
}

// Exit returns a channel that is closed when this process should finish its connections and exit, because its
// successor serves or because of a stop. Nothing is accepted from then on.
//
// Where an http.Server serves on a listener of Listen, Exit is closed when its idle connections have ended, each with
// an answer that says so, or after Options.IdleGrace.
func (u *Upgrader) Exit() <-chan struct{} { return u.exit }

// Closing returns a channel that is closed as soon as shutdown has fired, before Exit: for a protocol that can tell
// its clients not to send more. A few connections may still be accepted.
func (u *Upgrader) Closing() <-chan struct{} { return u.closing }

// Options returns what New was given, with the defaults filled in.
func (u *Upgrader) Options() Options { return u.options }

// Context returns a context that is done when Exit is closed.
func (u *Upgrader) Context() context.Context { return u.context }

// Reason says why Exit was closed.
func (u *Upgrader) Reason() Reason {
	select {
	case <-u.closing:
		return u.reason
	default:
		return NotExiting
	}
}

// Stop prevents any more upgrades, and returns when Exit is closed; an upgrade that is under way is ended first.
//
// Called when Exit is closed already, as by a deferred call at the end of main, it waits for the connections that are
// still open, at most until DrainTimeout after shutdown.
func (u *Upgrader) Stop() {
	select {
	case <-u.closing:
		// Not asked for again: a second stop cuts the drain short.
		<-u.exit
		_ = u.drain()
		u.free()
	default:
		if !u.ready.Load() || u.core.request(requestStop) != nil {
			// Not in service: an upgrade to this process fails, and the predecessor serves on.
			u.free()
			<-u.exit
			return
		}
		<-u.exit
		// Unix paths go when the last connection has ended; the caller does not wait for that here.
		if u.core.connCount() == 0 {
			u.free()
			return
		}
		go func() {
			_ = u.drain()
			u.free()
		}()
	}
}

// HasParent says whether this process was started by an upgrade, rather than as the first of its kind.
func (u *Upgrader) HasParent() bool { return u.core.generation() > 0 }

// Generation says how many upgrades there have been before this process.
func (u *Upgrader) Generation() int { return u.core.generation() }

// WaitForParent waits until the process before this one has exited, or the context is done. In the first generation
// it returns at once.
func (u *Upgrader) WaitForParent(ctx context.Context) error {
	u.orphaned.once.Do(func() {
		go func() {
			u.orphaned.err = u.core.waitPredecessor()
			close(u.orphaned.done)
		}()
	})
	select {
	case <-u.orphaned.done:
		return u.orphaned.err
	default:
	}
	select {
	case <-u.orphaned.done:
		return u.orphaned.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// SuccessorPID is the pid of the last process that an upgrade has started, also of one that failed; 0 before there
// was one.
func (u *Upgrader) SuccessorPID() int { return u.core.successorPID() }

// Detach leaves the service: this process goes on serving what it has and takes part in nothing any more. It is not
// upgraded, unlinks nothing and tells nobody.
func (u *Upgrader) Detach() error { return u.core.request(requestDetach) }

// Extend moves the deadline that is running to the given time from now: before Ready the predecessor's upgrade
// deadline, which only grows; after Exit this process's drain deadline. EINVAL: none is running. Before Ready of the
// first generation it is the service manager's time-out for the start, and nil where there is none, too.
func (u *Upgrader) Extend(by time.Duration) error { return u.core.extend(by) }

// Connections is how many connections are open that were accepted by listeners of this Upgrader.
func (u *Upgrader) Connections() int { return u.core.connCount() }

// Drain waits until all connections that were accepted by listeners of this Upgrader are closed, or the context is
// done. ETIME: the drain deadline has passed; ECANCELED: a second stop has cut it short; EINVAL: Exit is not closed.
func (u *Upgrader) Drain(ctx context.Context) error {
	wait := u.startDrain()
	select {
	case <-wait.done:
		if isErrno(wait.err, syscall.EBADF) {
			return nil // freed: nobody counts any more
		}
		return wait.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drainWait is a wait in the library for the end of the drain, which takes a thread for as long. All who wait share
// one.
type drainWait struct {
	done chan struct{}
	err  error // read after done is closed
}

// startDrain joins the wait that is under way, if connections can only get less: else what that is about to end with
// may be wrong by now. Before shutdown a wait fails at once.
func (u *Upgrader) startDrain() *drainWait {
	u.drained.Lock()
	defer u.drained.Unlock()
	if u.drained.wait != nil {
		return u.drained.wait
	}
	wait := &drainWait{done: make(chan struct{})}
	if u.quiet.Load() {
		u.drained.wait = wait
	}
	go func() {
		wait.err = u.core.drain()
		u.drained.Lock()
		defer u.drained.Unlock()
		if u.drained.wait == wait {
			u.drained.wait = nil
		}
		close(wait.done)
	}()
	return wait
}

// DrainContext returns a context that is done when the drain is over, for functions that end a server's connections
// and wait for them, as http.Server.Shutdown: at the drain deadline, which Extend moves, or 1.5 s after a second stop.
// Its error is context.DeadlineExceeded then. Before Exit is closed it is not done.
//
// While no connection is open that was accepted by a listener of this Upgrader, the deadline is DrainTimeout after
// shutdown.
func (u *Upgrader) DrainContext() context.Context {
	u.draining.once.Do(func() { go u.endDraining() })
	return &u.draining
}

func (u *Upgrader) endDraining() {
	<-u.exit
	wait := u.startDrain()
	<-wait.done
	if isErrno(wait.err, errTime) || isErrno(wait.err, syscall.ECANCELED) {
		close(u.draining.done)
		return
	}
	// Nothing is counted. What is open all the same was accepted in another way, and its requests may end, also where the
	// Upgrader is freed before. A timer, since a goroutine would outlive the server.
	time.AfterFunc(time.Until(u.fired.Add(u.options.DrainTimeout)), func() { close(u.draining.done) })
}

// drainContext is what DrainContext returns. Like one with a deadline it says that that has passed; but the deadline
// can be moved.
type drainContext struct {
	context.Context
	once sync.Once
	done chan struct{}
}

func (c *drainContext) Done() <-chan struct{} { return c.done }

func (c *drainContext) Err() error {
	select {
	case <-c.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func (u *Upgrader) drain() error { return u.Drain(context.Background()) }

// SetCommand chooses what the next upgrade runs; the arguments begin with the program's name for itself. Without it:
// what this process was started as, found by the same path, with the same arguments. An executable without a slash is
// looked for in PATH.
func (u *Upgrader) SetCommand(executable string, arguments ...string) error {
	if len(arguments) == 0 {
		arguments = []string{executable}
	}
	return u.core.setCommand(executable, arguments)
}

// SetEnv sets a variable in the environment of the next generation, which otherwise is the one of this process at
// New: os.Setenv does not reach it.
func (u *Upgrader) SetEnv(name, value string) error { return u.core.setEnv(name, &value) }

// UnsetEnv removes a variable from the environment of the next generation.
func (u *Upgrader) UnsetEnv(name string) error { return u.core.setEnv(name, nil) }

// SetDirectory chooses where the next generation starts. Without it: where this process was started.
func (u *Upgrader) SetDirectory(path string) error { return u.core.setDirectory(path) }

// LibraryVersion is the version of the library that is linked, as "0.1.0"; empty where there is none.
func LibraryVersion() string { return libraryVersion() }

func (u *Upgrader) free() {
	u.finish.Do(func() {
		u.Fds.unlinkPaths()
		u.ended.Store(true)
		u.core.free()
		close(u.freed)
	})
}

// watchShutdown closes Exit once shutdown has fired and no Accept takes connections any more: what Drain counts after
// that only gets less.
func (u *Upgrader) watchShutdown() {
	reason := Stopped
	for {
		kind, err := u.core.waitShutdown()
		if err == nil && kind == shutdownDetach {
			continue
		}
		// An error is ECANCELED: free.
		if err == nil && kind == shutdownUpgrade {
			reason = Upgraded
		}
		break
	}
	u.reason, u.fired = reason, time.Now()
	close(u.closing)
	listeners := u.Fds.quiesce(reason)
	u.quiet.Store(true)
	u.finishKeepAlive(listeners)
	close(u.exit)
	u.cancel()
}
