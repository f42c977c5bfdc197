/* mark.pml - links and marks of one subsegment between its owner, a taker, a fork and a program with a bug.
 *
 * take.pml has the protocol of take and repair; here each free block has two words, as in csrc/block/lfh.h, and they are
 * read and written one at a time. An allocation looks at the mark, reads the link, moves the head, and clears both words
 * behind it. A free looks at the mark, then writes mark, link, head. A page that was given back reads as zeroes, and
 * zeroes are no mark, and a link that leads to a wild address.
 *
 * The bug of the program is chosen at the beginning: none; a block is freed twice; somebody writes zeroes over a free
 * block, a word at a time, whenever he likes; or bends a link, so that it leads to another block, which may be busy
 * (without a taker, who believes a link that leads to a block). What is checked: no block is handed out twice, without its mark, or from a
 * page that is gone; nothing is ever written through what is no block, whoever decoded it; and a fork, at any moment,
 * finds a list of marked blocks that ends, and at rest no block is lost; but after zeroes or a bent link the list may end in
 * an error.
 *
 * Mutations (each must fail, see run.py): -DCLEAR_FIRST the words are cleared before the head moves; -DMARK_LATE the mark is
 * written behind the head; -DLINK_LATE so is the link; -DNO_MARK an allocation does not look at the mark;
 * -DNO_LOOK a free does not; -DNO_CHECK repair writes through any head; -DTAKE_ANY a taker follows any head;
 * -DNO_LOST a taker does not remember that the link of
 * the recorded head was overwritten; -DZERO_IS_END zeroes decode to the
 * end of the list, and a taker who reads them believes it.
 */
#define BLOCKS 3
#define NONE 0    /* the end; blocks are 1..BLOCKS, each on a page of its own */
#define WILD 8    /* no block */
#define CLEARED 9 /* a word of zeroes */
#define OPERATIONS 4

byte head;
byte link[4];
bool mark[4];
bool busy[4], page[4];
bool token, locked, taken, lost, owner_ended, taker_done, crashed;
byte taken_head, taken_second, list;
byte bug; /* 0: none; 1: a second free, 3: it was done; 2: zeroes; 4: a bent link */
bool found;

#define is_block(b) (b >= 1 && b <= BLOCKS)
#ifdef ZERO_IS_END
#define decoded(word) (word == CLEARED -> NONE : word)
#else
#define decoded(word) (word == CLEARED -> WILD : word)
#endif

inline lock() { atomic { !locked -> locked = true } }
inline unlock() { locked = false }

/* As _dmi_link_set: link and mark. */
inline set_link(b, next) {
    assert(is_block(b));
    assert(page[b]);
    assert(!busy[b]);
    link[b] = next;
    mark[b] = true
}

inline hand_out(b) {
    d_step {
        assert(is_block(b));
        assert(!busy[b]);
        assert(page[b]);
        busy[b] = true
    }
}

inline repair(front) {
    if
    :: !taken -> skip
    :: else ->
        front = list;
        if
        :: head == taken_head ->
            if
            :: head != NONE -> set_link(head, front); front = head
            :: else -> skip
            fi
        :: head != taken_head && head == taken_second && !lost -> skip
        :: else ->
            if
#ifndef NO_CHECK
            :: !is_block(head) || lost -> found = true
#else
            :: lost && is_block(head) -> found = true
#endif
            :: else ->
                if
                :: taken_head != NONE -> set_link(taken_head, front); front = taken_head
                :: else -> skip
                fi;
                set_link(head, front);
                front = head
            fi
        fi;
        head = front;
        d_step {
            taken = false; lost = false; taken_head = NONE; taken_second = NONE; list = NONE; front = NONE
        }
    fi
}

inline unpark(i) {
    i = 1;
    do
    :: i > BLOCKS -> break
    :: else ->
        if
        :: !page[i] -> page[i] = true; set_link(i, head); head = i
        :: else -> skip
        fi;
        i++
    od;
    i = 0
}

/* From the head, with the mark looked at. into is NONE where there is no such block. */
inline pop(into, next) {
    into = head;
    if
    :: into == NONE -> skip
    :: into != NONE && !is_block(into) -> crashed = true /* a fault of the processor: the program ends */
    :: else ->
        if
#ifndef NO_MARK
        :: !mark[into] -> into = NONE
#endif
        :: else ->
            next = link[into];
            next = decoded(next);
#ifdef CLEAR_FIRST
            link[into] = CLEARED;
            mark[into] = false;
#endif
            head = next;
#ifndef CLEAR_FIRST
            link[into] = CLEARED;
            mark[into] = false;
#endif
            hand_out(into)
        fi
    fi
}

proctype Owner() {
    byte b, next, front, i, turn, freed;
    do
    :: turn == OPERATIONS || crashed -> break
    :: turn < OPERATIONS && !crashed ->
        turn++;
        b = NONE;
        if
        :: token -> pop(b, next)
        :: !token -> skip
        fi;
        if
        :: b == NONE && !crashed ->
            lock();
            repair(front);
            token = true;
            pop(b, next);
            if
            :: b == NONE && !crashed ->
                if
                :: head != NONE -> found = true; head = NONE /* its list is lost */
                :: else -> skip
                fi;
                unpark(i);
                pop(b, next)
            :: else -> skip
            fi;
            unlock()
        :: else -> skip
        fi;
        d_step { b = 0; next = 0 }
    :: turn < OPERATIONS && !crashed && (busy[1] || busy[2] || busy[3] || (bug == 1 && freed)) ->
        turn++;
        if
        :: busy[1] -> b = 1; freed = 1
        :: busy[2] -> b = 2; freed = 2
        :: busy[3] -> b = 3; freed = 3
        :: bug == 1 && freed && !busy[freed] && page[freed] -> b = freed; bug = 3 /* once */
        :: else -> b = NONE
        fi;
        if
        :: b == NONE -> skip
        :: b != NONE && token ->
            if
#ifndef NO_LOOK
            :: mark[b] -> found = true
#endif
            :: else ->
                busy[b] = false;
#ifndef MARK_LATE
                mark[b] = true;
#endif
#ifndef LINK_LATE
                link[b] = head;
                head = b;
#else
                next = head;
                head = b;
                link[b] = next;
#endif
#ifdef MARK_LATE
                mark[b] = true
#else
                skip
#endif
            fi
        :: b != NONE && !token ->
            lock();
            repair(front);
            token = true;
            if
            :: mark[b] || !page[b] -> found = true
            :: else -> busy[b] = false; set_link(b, head); head = b
            fi;
            unlock()
        fi;
        d_step { b = 0; next = 0 }
    od;
    lock();
    if
    :: !crashed -> repair(front)
    :: else -> skip
    fi;
    token = false;
    owner_ended = true;
    unlock()
}

proctype Taker() {
    byte first, next, again, i, n;
    bool on_list[4];
    lock();
    if
    :: !owner_ended && !crashed && bug != 4 ->
        token = false;
        first = head;
        next = NONE;
        do
        :: first == NONE -> break
        :: else ->
#ifdef TAKE_ANY
            assert(is_block(first));
#endif
            next = NONE;
            if
            :: is_block(first) -> next = link[first]; next = decoded(next)
            :: else -> skip
            fi;
            again = head;
            if
            :: again == first -> break
            :: else -> first = again; next = NONE
            fi
        od;
        skip; /* no jump may lead into a d_step */
        d_step {
            lost = false;
            if
            :: next != NONE && !is_block(next) ->
                next = NONE;
#ifndef NO_LOST
                lost = true
#else
                skip
#endif
            :: else -> skip
            fi;
            if
            :: first != NONE && !is_block(first) -> first = NONE
            :: else -> skip
            fi;
            taken_head = first; taken_second = next; list = next; taken = true;
            first = NONE; next = NONE; again = NONE
        }
        /* Sweep: what is on the list is free. A link that leads nowhere ends it. */
        i = list;
        n = 0;
        do
        :: !is_block(i) || n == BLOCKS -> break
        :: else ->
            if
            :: on_list[i] -> break
            :: else -> skip
            fi;
            on_list[i] = true;
            assert(page[i]);
            next = link[i];
            i = decoded(next);
            n++
        od;
        if
        :: is_block(taken_head) -> on_list[taken_head] = false
        :: else -> skip
        fi;
        list = NONE;
        i = 1;
        do
        :: i > BLOCKS -> break
        :: else ->
            if
            :: on_list[i] ->
                if /* its page goes, or is too young to */
                :: d_step { assert(!busy[i]); page[i] = false; link[i] = CLEARED; mark[i] = false }
                :: set_link(i, list); list = i
                fi
            :: else -> skip
            fi;
            on_list[i] = false;
            i++
        od;
        i = 0; next = 0; n = 0
    :: else -> skip
    fi;
    unlock();
    taker_done = true
}

/* A child has what its parent had at that moment. While the run is taken its list is in two parts, which the child joins as
 * the owner would: take.pml. */
proctype Fork() {
    byte b, n;
    atomic {
        if
        :: !taken && !locked && bug != 2 && bug != 4 ->
            b = head;
            do
            :: b == NONE -> break
            :: else ->
                assert(is_block(b));
                assert(page[b]);
                assert(mark[b]);
                n++;
                assert(n <= BLOCKS);
                b = link[b]
            od
        :: else -> skip
        fi
    }
}

proctype Writer() {
    byte b;
    if
    :: bug == 4 ->
        if
        :: b = 1
        :: b = 2
        :: b = 3
        fi;
        if /* its mark stays */
        :: atomic { mark[b] -> link[b] = 1 }
        :: atomic { mark[b] -> link[b] = 2 }
        :: atomic { mark[b] -> link[b] = 3 }
        :: else -> skip
        fi
    :: bug == 2 ->
        if
        :: !busy[1] -> b = 1
        :: !busy[2] -> b = 2
        :: !busy[3] -> b = 3
        :: else -> b = 1
        fi;
        if
        :: !busy[b] -> link[b] = CLEARED
        :: else -> skip
        fi;
        if
        :: !busy[b] -> mark[b] = false
        :: else -> skip
        fi
    :: else -> skip
    fi
}

proctype Judge() {
    byte b, i;
    byte places[4];
    owner_ended && taker_done;
    if
    :: bug != 2 && bug != 4 ->
        assert(!crashed);
        b = head;
        do
        :: b == NONE -> break
        :: else ->
            assert(is_block(b));
            places[b]++;
            assert(places[b] == 1);
            assert(page[b] && mark[b]);
            b = link[b]
        od;
        i = 1;
        do
        :: i > BLOCKS -> break
        :: else ->
            if
            :: busy[i] -> places[i]++
            :: else -> skip
            fi;
            if
            :: !page[i] -> places[i]++
            :: else -> skip
            fi;
            assert(places[i] == 1);
            i++
        od;
        assert(bug == 3 || !found) /* nothing is found where there is no bug */
    :: else -> skip
    fi
}

init {
    atomic {
        byte i = 1;
        do
        :: i > BLOCKS -> break
        :: else -> page[i] = true; mark[i] = true; link[i] = (i == BLOCKS -> NONE : i + 1); i++
        od;
        head = 1; token = true;
        if
        :: bug = 0
        :: bug = 1
        :: bug = 2
        :: bug = 4
        fi;
        run Owner(); run Taker(); run Fork(); run Writer(); run Judge()
    }
}
