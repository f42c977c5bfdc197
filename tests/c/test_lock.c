/* test_lock.c - the mutex of lock.h: exclusion, sleeping, counting. */
#include "os/lock.h"
#include "os/os.h"
#include "test.h"

enum { THREADS = 4, ROUNDS = 20000 };

static dmi_lock shared; /* zero is open */
static uint64_t plain;  /* guarded by shared */
static _Atomic uint32_t inside;
static _Atomic uint32_t finished;

static void hammer(void *argument) {
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        _dmi_lock(&shared);
        if (atomic_fetch_add(&inside, 1) != 0) test_failed(__FILE__, __LINE__, "two are inside");
        plain++;
        if (i % 1000 == 0) test_yield(); /* be preempted while holding it now and then */
        atomic_fetch_sub(&inside, 1);
        _dmi_unlock(&shared);
    }
    atomic_fetch_add(&finished, 1);
}

TEST(lock_excludes) {
    plain = 0;
    test_thread *threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = test_thread_start(hammer, NULL);
    for (int i = 0; i < THREADS; i++) test_thread_join(threads[i]);
    CHECK_EQ(plain, (uint64_t)THREADS * ROUNDS);
    CHECK_EQ(atomic_load(&shared.state), 0);
}

TEST(lock_try) {
    dmi_lock lock = {0, 0};
    CHECK(_dmi_lock_try(&lock));
    CHECK(!_dmi_lock_try(&lock));
    CHECK_EQ(atomic_load(&lock.contended), 0); /* trying is not waiting */
    _dmi_unlock(&lock);
    CHECK(_dmi_lock_try(&lock));
    _dmi_unlock(&lock);
}

static void take_once(void *argument) {
    dmi_lock *lock = argument;
    _dmi_lock(lock);
    _dmi_unlock(lock);
    atomic_fetch_add(&finished, 1);
}

/* All who sleep are woken, one after another, and each waiting is counted once. */
TEST(lock_wakes_all_sleepers) {
    dmi_lock lock = {0, 0};
    atomic_store(&finished, 0);
    _dmi_lock(&lock);
    test_thread *threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = test_thread_start(take_once, &lock);
    while (atomic_load(&lock.contended) != THREADS) test_yield();
    test_sleep_ms(20); /* past their spinning */
    CHECK_EQ(atomic_load(&finished), 0);
    CHECK_EQ(atomic_load(&lock.state), 2);
    _dmi_unlock(&lock);
    for (int i = 0; i < THREADS; i++) test_thread_join(threads[i]);
    CHECK_EQ(atomic_load(&finished), THREADS);
    CHECK_EQ(atomic_load(&lock.state), 0);
    CHECK_EQ(atomic_load(&lock.contended), THREADS);
}

TEST(lock_uncontended_does_not_count) {
    dmi_lock lock = {0, 0};
    for (int i = 0; i < 1000; i++) {
        _dmi_lock(&lock);
        _dmi_unlock(&lock);
    }
    CHECK_EQ(atomic_load(&lock.contended), 0);
}
