/* The clock of a simulation, for every process that has this preloaded: LD_PRELOAD, and DEFENDER_ADX_CLOCK names the
 * file that `days_clock.py` maps and writes.
 *
 * The wall clock runs at the rate of that file, in Python as in the C of SQLite, DuckDB and gRPC. The monotonic clock
 * and with it every wait, time-out and poll stay real: requests take as long as they take. libfaketime cannot do that:
 * it scales the waits, too, or lets `clock_nanosleep` fail where the monotonic clock is left alone (0.9.10). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define EARLIEST 1000000000LL /* seconds; a deadline before it is not one of the wall clock */

struct shared {
    _Atomic uint64_t version; /* odd while the rest is written */
    int64_t monotonic, wall;  /* nanoseconds: at that instant it was that time */
    double rate;
};
static const volatile struct shared *shared;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("DEFENDER_ADX_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof(struct shared), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) shared = found;
}

static int64_t real(clockid_t id) {
    struct timespec now;
    syscall(SYS_clock_gettime, id, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static int64_t wall(void) {
    if (!shared) return real(CLOCK_REALTIME);
    for (;;) {
        uint64_t before = atomic_load(&shared->version);
        int64_t since = shared->monotonic, then = shared->wall;
        double rate = shared->rate;
        atomic_thread_fence(memory_order_acquire);
        if (!(before & 1) && before == atomic_load(&shared->version))
            return then + (int64_t)((double)(real(CLOCK_MONOTONIC) - since) * rate);
    }
}

static struct timespec split(int64_t instant) {
    return (struct timespec){.tv_sec = instant / SECOND, .tv_nsec = instant % SECOND};
}

int clock_gettime(clockid_t id, struct timespec *out) {
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) {
        *out = split(wall());
        return 0;
    }
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "clock_gettime");
    return next(id, out);
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    int64_t now = wall();
    *out = (struct timeval){.tv_sec = now / SECOND, .tv_usec = now % SECOND / 1000};
    return 0;
}

time_t time(time_t *out) {
    time_t now = wall() / SECOND;
    if (out) *out = now;
    return now;
}

int timespec_get(struct timespec *out, int base) {
    if (base != TIME_UTC) return 0;
    *out = split(wall());
    return base;
}

/* A deadline of the wall clock is as many real nanoseconds away as it seems to be. */
static struct timespec deadline(const struct timespec *given) {
    if (!shared || given->tv_sec < EARLIEST) return *given;
    int64_t left = given->tv_sec * SECOND + given->tv_nsec - wall();
    return split(real(CLOCK_REALTIME) + left);
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    /* The name has an older version, of another layout of the condition, which `dlsym` may find. */
    if (!next) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec at = deadline(until);
    return next(cond, mutex, &at);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*next)(sem_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec at = deadline(until);
    return next(semaphore, &at);
}
