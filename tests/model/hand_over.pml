/* hand_over.pml - remote frees of two subsegments while their owner ends and another thread takes them over.
 *
 * What design and code say of it: csrc/block/lfh.c (push_remote, collect), csrc/heap/cache.c (pend, drain, steal,
 * release). A free by another thread pushes the block onto the remote list of its subsegment, one word that
 * also holds a flag; who sets the flag enters the subsegment in the pending list of the cache that it belongs to at
 * that moment. Whoever holds the lock of a cache takes in its pending list; a subsegment that moved while it was on
 * its way is entered again where it belongs now. When the owner ends, another thread takes its subsegments over; an
 * empty one goes back to the heap and serves again as another.
 *
 * What is checked: remote and local lists are touched under the lock of the cache that owns the subsegment, or by
 * pushes; a subsegment is in one pending list at most; nobody enters one that was released; at rest every block is
 * free once, every list empty, every count right.
 *
 * Mutations (each must fail, see run.py): -DDROP_MOVED a subsegment that moved is not entered again; -DTRUST_LIST
 * drain does not ask where it belongs; -DCLEAR_FLAG a collect outside drain clears the flag; -DIGNORE_FLAG a
 * subsegment is released although somebody may be about to enter it; -DNEXT_LATE drain reads the next one after it
 * let go of this one; -DNO_LOCK the taker-over does not hold the ended thread's lock.
 */
#define RUNS 2
#define BLOCKS 3    /* 0 and 1 lie in run 0, 2 in run 1 */
#define RUN_OF(b) (b / 2)
#define NONE 9
#define OLD 0       /* caches: of the thread that ends, of the one that takes over */
#define NEW 1

/* Of each run; head, count and flag are one word: they change in one step. */
byte remote_head[RUNS] = NONE;
byte remote_count[RUNS];
bool flag[RUNS];
byte cache_of[RUNS] = OLD;  /* NONE: released */
byte pending_next[RUNS] = NONE;
byte used[RUNS];            /* handed out, as its owner knows it */
bool in_list[RUNS];         /* what the model knows: in somebody's pending list, or taken from one */

byte link[BLOCKS] = NONE;
bool back[BLOCKS];          /* on the local list */

byte pending[2] = NONE;     /* of each cache */
byte holder[2] = NONE;      /* of its lock */
bool ended;                 /* the owner's thread */
byte pushers;               /* that are done */
byte drainers;

inline lock(c) { atomic { holder[c] == NONE -> holder[c] = _pid } }
inline unlock(c) { holder[c] = NONE }

/* Enter a run in the pending list of cache c. */
inline pend_on(c, r, seen) {
    atomic { assert(c != NONE); assert(!in_list[r]); in_list[r] = true }
    do
    :: true ->
        seen = pending[c];
        pending_next[r] = seen;
        atomic {
            if
            :: pending[c] == seen -> pending[c] = r; seen = NONE; break
            :: else -> skip
            fi
        }
    od
}

/* Move what others freed to the local list. keep: the flag stays as it is. */
inline collect(r, keep, b, n) {
    atomic {
        assert(holder[cache_of[r]] == _pid);
        b = remote_head[r]; n = remote_count[r];
        remote_head[r] = NONE; remote_count[r] = 0;
        if
        :: !keep -> flag[r] = false
        :: else -> skip
        fi
    }
    do
    :: b == NONE -> break
    :: else ->
        atomic {
            assert(!back[b] && RUN_OF(b) == r);
            assert(n > 0);
            back[b] = true;
            used[r]--;
            n--
        }
        b = link[b]
    od;
    assert(n == 0);
    b = 0; n = 0
}

/* Give an empty run back; the heap makes another of it at once. */
inline release_if_empty(r) {
#ifdef IGNORE_FLAG
    if
    :: used[r] == 0 ->
#else
    if
    :: used[r] == 0 && !flag[r] ->
#endif
        atomic {
            assert(holder[cache_of[r]] == _pid);
            assert(remote_count[r] == 0);
            cache_of[r] = NONE
        }
    :: else -> skip
    fi
}

/* The lock of cache c is held. */
inline drain(c, r, next, owner, seen, b, n) {
    atomic { r = pending[c]; pending[c] = NONE }
    do
    :: r == NONE -> break
    :: else ->
#ifndef NEXT_LATE
        next = pending_next[r];
#endif
        owner = cache_of[r];
        in_list[r] = false; /* ours alone from here to the next line that shares it */
#ifdef TRUST_LIST
        owner = c;
#endif
        if
        :: owner != c ->
#ifndef DROP_MOVED
            pend_on(owner, r, seen)
#else
            skip
#endif
        :: else ->
            collect(r, false, b, n);
            release_if_empty(r)
        fi;
#ifdef NEXT_LATE
        next = pending_next[r];
#endif
        r = next;
        owner = 0
    od;
    r = 0; next = 0
}

/* Free blocks that the owner had handed out: first, and last unless that is NONE. */
proctype Pusher(byte first, last) {
    byte b, r, old_head, old_count, c, seen;
    bool mine, old_flag;
    b = first;
    do
    :: b == NONE -> break
    :: else ->
        r = RUN_OF(b);
        do
        :: true ->
            atomic { old_head = remote_head[r]; old_count = remote_count[r]; old_flag = flag[r] }
            link[b] = old_head;
            atomic {
                if
                :: remote_head[r] == old_head && remote_count[r] == old_count && flag[r] == old_flag ->
                    remote_head[r] = b; remote_count[r] = old_count + 1; flag[r] = true;
                    mine = !old_flag;
                    break
                :: else -> skip
                fi
            }
        od;
        if
        :: mine ->
            c = cache_of[r];
            pend_on(c, r, seen)
        :: else -> skip
        fi;
        atomic { mine = false; old_flag = false; old_head = 0; old_count = 0; c = 0; seen = 0; r = 0 }
        b = last;
        last = NONE
    od;
    pushers++
}

/* The thread whose runs they are: takes in what came back, or not, and ends. */
proctype Owner() {
    byte r, next, owner, seen, b, n;
    if
    :: lock(OLD);
        drain(OLD, r, next, owner, seen, b, n);
        unlock(OLD)
    :: skip
    fi;
    ended = true;
    drainers++
}

/* A thread that needs runs: takes over those of the one that ended. */
proctype Heir() {
    byte r, next, owner, seen, b, n, turn;
    ended;
#ifndef NO_LOCK
    lock(OLD);
    drain(OLD, r, next, owner, seen, b, n);
#endif
    lock(NEW);
    turn = 0;
    do
    :: turn == RUNS -> break
    :: else ->
        if
        :: cache_of[turn] == OLD -> cache_of[turn] = NEW
        :: else -> skip
        fi;
        turn++
    od;
#ifndef NO_LOCK
    unlock(OLD);
#endif
    /* Is there something on the list of the one that is to be used? */
    if
    :: cache_of[0] == NEW ->
#ifdef CLEAR_FLAG
        collect(0, false, b, n);
#else
        collect(0, true, b, n);
#endif
        release_if_empty(0)
    :: else -> skip
    fi;
    unlock(NEW);
    lock(NEW);
    drain(NEW, r, next, owner, seen, b, n);
    unlock(NEW);
    drainers++
}

/* The scavenger: takes in what waits, of either. */
proctype Taker() {
    byte r, next, owner, seen, b, n;
    lock(OLD);
    drain(OLD, r, next, owner, seen, b, n);
    unlock(OLD);
    drainers++
}

/* When all is at rest, whoever passes next finds everything. */
proctype Judge() {
    byte r, next, owner, seen, b, n;
    pushers == 2 && drainers == 3;
    lock(OLD);
    drain(OLD, r, next, owner, seen, b, n);
    unlock(OLD);
    lock(NEW);
    drain(NEW, r, next, owner, seen, b, n);
    unlock(NEW);
    assert(pending[OLD] == NONE && pending[NEW] == NONE);
    assert(back[0] && back[1] && back[2]);
    assert(used[0] == 0 && used[1] == 0);
    assert(cache_of[0] == NONE && cache_of[1] == NONE);
    assert(remote_count[0] == 0 && remote_count[1] == 0)
}

init {
    atomic {
        used[0] = 2; used[1] = 1;
        run Pusher(0, 2); run Pusher(1, NONE); run Owner(); run Heir(); run Taker(); run Judge()
    }
}
