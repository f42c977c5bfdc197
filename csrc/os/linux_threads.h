/* linux_threads.h - floor 1, Linux: waiting, threads, barriers, fork. The contracts are those of os.h. */
#ifndef DMI_LINUX_THREADS_H
#define DMI_LINUX_THREADS_H

#include "os.h"

void _dmi_linux_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void _dmi_linux_wake(_Atomic uint32_t *word, bool all);
uint64_t _dmi_linux_thread_id(void);
int _dmi_linux_thread_exit_setup(void (*handler)(void *));
int _dmi_linux_thread_exit_arm(void *value);
int _dmi_linux_barrier_setup(void);
int _dmi_linux_barrier(void);
int _dmi_linux_thread_start(void (*body)(void));
void _dmi_linux_thread_join(void);
/* Is this the process that owns the memory? Not in a vfork child, nor in one that a direct clone made. */
bool _dmi_linux_is_home(void);
/* Note that this process owns the memory. */
void _dmi_linux_note_home(void);
/* In linux_fork.c. Called once. */
int _dmi_linux_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));

/* linux_faults.c: os.h has it. */
int _dmi_linux_on_fault(void (*touched)(const void *address));
#endif
