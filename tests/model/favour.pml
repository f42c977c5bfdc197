/* favour.pml - a record's lock, which its own thread takes with plain stores while it is favoured.
 *
 * What design and code say of it: csrc/heap/owner.h. The owner's store that says it is inside may wait in its processor's
 * buffer while it reads whether it is favoured: here the store is a step of its own that may come later (flush), until a
 * barrier of somebody else, or the exchange of the lock, forces it out. Loads are not delayed, and stores come out in
 * their order, as on x86; on AArch64 the store that says it has left is a release.
 *
 * The favour is told in two words, of which a path reads one; both are written under the lock, before the barrier. Here they
 * are one.
 *
 * What is checked: owner and others are never inside together, and nobody waits for ever.
 *
 * Mutations (each must fail, see run.py): -DNO_BARRIER others make no barrier; -DBARRIER_FIRST they make it before they
 * end the favour; -DNO_WAIT they do not wait until the owner has left; -DLOOK_FIRST the owner looks whether it is
 * favoured before it says that it is inside; -DNO_LOCK the owner is favoured again without the lock; -DSTAY_FAVOURED
 * others do not end the favour; -DTAKE_LATE the owner, no longer favoured, goes on.
 */
#define OWNER_ROUNDS 3
#define OTHERS 2

bool favoured = true;
byte lock;              /* 0: open */
bool inside;            /* as the others see it */
bool buffered, value;   /* the owner's store that is still on its way */
byte within;            /* how many there are, whoever they are */
byte done;

inline take() { atomic { lock == 0 -> lock = 1 } }
inline let() { lock = 0 }
/* The owner's store: the one before it comes out first. */
inline say(what) { atomic { !buffered -> buffered = true; value = what } }
inline flush() { atomic { if :: buffered -> inside = value; buffered = false :: else -> skip fi } }
inline work() {
    atomic { within++; assert(within == 1) }
    within--
}

active proctype buffer() {
    do
    :: atomic { buffered -> inside = value; buffered = false }
    :: atomic { done == OTHERS + 1 && !buffered -> break }
    od
}

active proctype owner() {
    byte round;
    bool seen;
    do
    :: round == OWNER_ROUNDS -> break
    :: else ->
        round++;
#ifdef LOOK_FIRST
        seen = favoured;
        say(true);
#else
        say(true);
        seen = favoured;
#endif
#ifdef TAKE_LATE
        seen = true;
#endif
        if
        :: seen ->
            work();
            say(false)
        :: else ->
            say(false);
            atomic { take(); flush() }   /* an exchange empties the buffer */
            work();
            if
            :: favoured = true          /* after a while in which nobody came: at any time, in the model */
            :: skip
            fi;
            let()
        fi
#ifdef NO_LOCK
        ;
        favoured = true
#endif
    od;
    done++
}

active [OTHERS] proctype other() {
    take();
    if
    :: favoured ->
#ifdef BARRIER_FIRST
        flush();
#endif
#ifndef STAY_FAVOURED
        favoured = false;
#endif
#if !defined(NO_BARRIER) && !defined(BARRIER_FIRST)
        flush();
#endif
#ifndef NO_WAIT
        !inside
#endif
    :: else -> skip
    fi;
    work();
    let();
    done++
}
