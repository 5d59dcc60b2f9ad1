package shellflip

import (
	"errors"
	"log"
	"runtime"
)

// readEvents gives the library's events to the functions of Options, until free.
func (u *Upgrader) readEvents() {
	// For good: see nextEvent.
	runtime.LockOSThread()
	over := false
	defer func() {
		// A function of the host has ended this goroutine, as FailNow of a test does: another one goes on.
		if !over {
			go u.readEvents()
		}
	}()
	for {
		// What the library knows by its handle is the process. After free that may be the next Upgrader's.
		if u.ended.Load() {
			over = true
			return
		}
		event, err := u.core.nextEvent()
		if err != nil {
			over = true
			return
		}
		u.take(event)
	}
}

func (u *Upgrader) take(event *coreEvent) {
	refusal := errors.New("the host's function has not returned")
	// A panic of the host's function refuses, too, and goes on as a panic; so does runtime.Goexit.
	defer func() { event.answer(refusal) }()
	// What the host has written before Ready, its variable for this Upgrader say, is there for its functions.
	u.begun.Load()
	switch event.kind {
	case eventStarting:
		refusal = u.options.Starting(event.text)
	case eventState:
		writer := &stateWriter{event: event}
		defer writer.end()
		refusal = u.options.State(writer)
	case eventFailed:
		failed := &Error{Errno: errnoOf(event.failure), Failure: event.failure, Text: event.text}
		if u.options.Failed != nil {
			u.options.Failed(failed)
		} else if u.failLog.Load() {
			log.Println(failed)
		}
	case eventLog:
		if u.options.Log != nil {
			u.options.Log(event.text)
		}
	}
}
