/* take.pml - one subsegment between its owner, a taker, and another thread, an instruction at a time.
 *
 * What design and code say of it: csrc/heap/take.c, csrc/block/lfh.c (take and repair), csrc/heap/fast.h.
 * The owner allocates and frees with plain loads and stores of head, link and count; each is a step of its own,
 * and a signal handler, a page fault or a vfork child may suspend it before any of them for ever. The taker
 * zeroes the owner's token, waits for the barrier, records the head, cuts the list behind it, gives the
 * pages of free blocks back, and collects what others freed. The other thread frees blocks that it was handed,
 * and pushes them onto the remote list. A taken thread repairs in its next slow path. When the owner ends,
 * its cache goes to another thread (hand_over), which must find every block.
 *
 * What is checked: no block is handed out twice or while its page is gone (assert in handed_out), no link is read
 * from or written to a page that is gone, a page goes only while no block on it is busy or may become so without a
 * slow path, and at rest every block is in exactly one place and the count is right.
 *
 * Mutations (each must fail, see run.py): -DNO_GONE the taker does not notice that the recorded head block came
 * back; -DTRUST_LINK it believes the head's link without looking at the head again; -DWRITE_HEAD it relinks the
 * head block; -DNO_PIN it takes the head block's page too; -DHEAD_IS_SECOND repair takes any changed head for the second block.
 */
#define BLOCKS 3
#define NONE 0      /* end of a list; blocks are 1..BLOCKS, each on a page of its own */
#define GARBAGE 9   /* what a user writes where the link was */
#define OPERATIONS 3

/* The subsegment: what the fast path touches. */
byte head;
byte link[4];
short used;
bool token;          /* the owner's TLS word names its record */

/* Blocks, as their users see them. */
bool busy[4];        /* handed out: from the return of an allocation to the call of a free */
bool owners[4];      /* busy and in the owner's hands */
bool page[4];        /* committed */

/* The remote list: one word. */
byte remote_head;
byte remote_count;

/* What the taker keeps. */
bool locked, taken, gone, current;
byte taken_head, taken_second, list;
short taken_count;
bool owner_ended;
bool other_done, taker_done;

inline lock() { atomic { !locked -> locked = true } }
inline unlock() { locked = false }

inline handed_out(b) {
    assert(b >= 1 && b <= BLOCKS);
    assert(!busy[b]);
    assert(page[b]);
    busy[b] = true
}

inline read_link(b, into) {
    assert(page[b]);
    into = link[b]
}

inline write_link(b, value) {
    assert(page[b]);
    link[b] = value
}

/* Move the remote list to the front of the local one, or of the taken one. The lock is held. */
inline collect(first, last, next, n) {
    d_step { first = remote_head; n = remote_count; remote_head = NONE; remote_count = 0 }
    if
    :: first == NONE -> skip
    :: else ->
        last = first;
        do
        :: true ->
#ifndef NO_GONE
            if
            :: taken && current && last == taken_head -> gone = true
            :: else -> skip
            fi;
#endif
            read_link(last, next);
            if
            :: next == NONE -> break
            :: else -> last = next
            fi
        od;
        if
        :: taken -> write_link(last, list); list = first; taken_count = taken_count + n
        :: else -> write_link(last, head); head = first; used = used - n
        fi
    fi;
    first = NONE; last = NONE; next = NONE; n = 0
}

/* Bring a taken subsegment in order. Its owner holds the lock, or is gone. */
inline repair(front) {
    if
    :: !taken -> skip
    :: else ->
        front = list;
        if
        :: gone -> skip
        :: !gone && head == taken_head ->
            if
            :: current && head != NONE -> write_link(head, list); front = head
            :: else -> skip
            fi
#ifdef HEAD_IS_SECOND
        :: !gone && head != taken_head && current -> skip
#else
        :: !gone && head != taken_head && current && head == taken_second -> skip
#endif
        :: else ->
            if
            :: current && taken_head != NONE -> write_link(taken_head, front); front = taken_head
            :: else -> skip
            fi;
            write_link(head, front);
            front = head
        fi;
        head = front;
        used = used - taken_count;
        taken = false; gone = false; current = false;
        taken_head = NONE; taken_second = NONE; list = NONE; taken_count = 0;
        front = NONE
    fi
}

/* Commit what was given back and link every free block that is in no list. The lock is held, nothing taken. */
inline unpark(i) {
    i = 1;
    do
    :: i > BLOCKS -> break
    :: else ->
        if
        :: !page[i] -> page[i] = true; write_link(i, head); head = i
        :: else -> skip
        fi;
        i++
    od;
    i = 0
}

/* The slow path of an allocation. */
inline slow_alloc() {
    lock();
    repair(front);
    token = true;
    collect(first, last, next, n);
    if
    :: head == NONE -> unpark(i)
    :: else -> skip
    fi;
    b = head;
    if
    :: b != NONE ->
        read_link(b, next);
        head = next;
        used = used + 1;
        d_step { handed_out(b); owners[b] = true; link[b] = GARBAGE }
    :: else -> skip
    fi;
    unlock()
}

proctype Owner() {
    byte b, next, first, last, n, front, i, turn;
    short count;
    do
    :: turn == OPERATIONS -> break
    :: turn < OPERATIONS -> /* allocate: the slots are the empty subsegment when the token is gone */
        turn++;
        b = NONE;
        if
        :: token -> b = head /* the head is read a step later than the token */
        :: !token -> skip
        fi;
        if
        :: b != NONE ->
            read_link(b, next);
            head = next;
            count = used;
            used = count + 1;
            d_step { handed_out(b); owners[b] = true; link[b] = GARBAGE }
        :: b == NONE -> slow_alloc()
        fi;
        d_step { b = 0; next = 0; count = 0 }
    :: turn < OPERATIONS && (owners[1] || owners[2] || owners[3]) -> /* free a block of its own */
        atomic {
            turn++;
            if
            :: owners[1] -> b = 1
            :: owners[2] -> b = 2
            :: owners[3] -> b = 3
            :: else -> b = NONE /* the other thread got it */
            fi;
            if
            :: b != NONE -> busy[b] = false; owners[b] = false
            :: else -> skip
            fi
        }
        if
        :: b == NONE -> skip
        :: b != NONE && token ->
            next = head;
            write_link(b, next);
            head = b;
            count = used;
            used = count - 1
        :: b != NONE && !token ->
            lock();
            repair(front);
            token = true;
            write_link(b, head);
            head = b;
            used = used - 1;
            unlock()
        fi;
        d_step { b = 0; next = 0; count = 0 }
    od;
    /* The end of the thread: repaired under the lock, then handed on. */
    lock();
    repair(front);
    token = false;
    owner_ended = true;
    unlock()
}

/* Takes the blocks that the owner hands to it, and frees them. */
proctype Other() {
    byte b, old, turn;
    do
    :: turn == OPERATIONS || owner_ended -> break
    :: turn < OPERATIONS && (owners[1] || owners[2] || owners[3]) ->
        atomic {
            if
            :: owners[1] -> b = 1
            :: owners[2] -> b = 2
            :: owners[3] -> b = 3
            :: else -> b = NONE
            fi;
            if
            :: b != NONE -> owners[b] = false; busy[b] = false
            :: else -> skip
            fi
        }
        do
        :: b == NONE -> break
        :: b != NONE ->
            old = remote_head;
            write_link(b, old);
            atomic {
                if
                :: remote_head == old -> remote_head = b; remote_count++; b = NONE
                :: else -> skip
                fi
            }
        od;
        turn++;
        old = 0
    od;
    other_done = true
}

proctype Taker() {
    byte first, last, next, n, again, i, turn;
    bool on_list[4], goes;
    do
    :: turn == 2 || owner_ended -> break
    :: else ->
        turn++;
        lock();
        if
        :: owner_ended -> unlock(); break
        :: else -> skip
        fi;
        if
        :: !taken ->
            token = false;
            /* All of the owner's earlier stores are seen, and it has at most one operation in flight: in this model
             * stores are seen at once, so that the barrier is a step like others. */
            first = head;
            next = NONE;
            current = true;
            do
            :: first == NONE -> break
            :: else ->
                next = link[first];   /* it may be handed out, and its page is committed */
                assert(page[first]);
#ifdef TRUST_LINK
                break
#else
                again = head;
                if
                :: again == first -> break
                :: else -> first = again; next = NONE
                fi
#endif
            od;
            taken_head = first; taken_second = next; taken_count = 0; list = next; gone = false;
            taken = true;
            first = NONE; next = NONE; again = NONE
        :: else -> skip
        fi;
        collect(first, last, next, n);
        /* Sweep: what is on the list is free; every page of it goes but the recorded head block's. */
#ifdef WRITE_HEAD
        if
        :: taken_head != NONE && page[taken_head] -> write_link(taken_head, NONE)
        :: else -> skip
        fi;
#endif
        i = list;
        do
        :: i == NONE -> break
        :: else ->
            assert(i >= 1 && i <= BLOCKS);
            assert(!on_list[i]);
            on_list[i] = true;
            read_link(i, next);
            i = next
        od;
#ifndef NO_PIN
        /* The recorded head block and its page are left as they are: it may be handed out at any moment. */
        if
        :: taken_head != NONE && !gone -> on_list[taken_head] = false
        :: else -> skip
        fi;
#else
        if
        :: taken_head != NONE -> on_list[taken_head] = true
        :: else -> skip
        fi;
#endif
        if /* a page may be too young to go: then the list is only built afresh */
        :: goes = true
        :: goes = false
        fi;
        list = NONE;
        i = 1;
        do
        :: i > BLOCKS -> break
        :: else ->
            if
            :: on_list[i] && goes -> assert(!busy[i]); page[i] = false
            :: on_list[i] && !goes -> write_link(i, list); list = i
            :: else -> skip
            fi;
            on_list[i] = false;
            i++
        od;
        goes = false;
        i = 0; next = 0;
        unlock()
    od;
    taker_done = true
}

/* When all is at rest: every block is busy, on the list once, remote once, or on a page that was given back; and
 * the count says so. */
proctype Judge() {
    byte first, last, next, n, i, b;
    byte places[4];
    byte sum;
    owner_ended && other_done && taker_done;
    collect(first, last, next, n);
    b = head;
    do
    :: b == NONE -> break
    :: else ->
        assert(b <= BLOCKS);
        places[b]++;
        assert(places[b] == 1);
        assert(page[b]);
        b = link[b]
    od;
    i = 1;
    do
    :: i > BLOCKS -> break
    :: else ->
        if
        :: busy[i] -> places[i]++; sum++
        :: else -> skip
        fi;
        if
        :: !page[i] -> places[i]++
        :: else -> skip
        fi;
        assert(places[i] == 1);
        i++
    od;
    assert(used == sum)
}

init {
    atomic {
        byte i = 1;
        do
        :: i > BLOCKS -> break
        :: else -> page[i] = true; link[i] = (i == BLOCKS -> NONE : i + 1); i++
        od;
        head = 1; token = true;
        run Owner(); run Other(); run Taker(); run Judge()
    }
}
