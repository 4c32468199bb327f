/*
 * A disk that fails: LD_PRELOAD for the chaos tests. Calls on files below one folder are counted, and the k-th fails, kills the
 * process, or is late; or the clock jumps at the k-th look at it. Off until chaos_arm() is called.
 *
 *   gcc -O2 -shared -fPIC -o faults.so faults.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OFF, COUNT, EIO_ONCE, EIO_STAYS, FULL, KILL, SLOW, CLOCK };

static int mode = OFF;
static long moment, jump;
static volatile long *calls; /* shared with who armed it: calls so far, looks at the clock so far, 1 once it has struck, writes of all calls */
static char root[4096], bad[4096];
static int jumped;

void chaos_arm(int what, long when, long seconds, const char *folder, volatile long *shared)
{
    moment = when;
    jump = seconds;
    calls = shared;
    strncpy(root, folder, sizeof root - 1);
    bad[0] = 0;
    jumped = 0;
    mode = what;
}

static int below(const char *path)
{
    size_t n = strlen(root);
    return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == 0);
}

/* 0: go on; else the errno that the call ends with. */
static int strikes(const char *path, int writes)
{
    long now;
    if (mode == OFF || mode == CLOCK || !below(path))
        return 0;
    if (mode == FULL) {
        if (!writes)
            return 0;
        now = __sync_add_and_fetch(&calls[0], 1);
        if (now < moment)
            return 0;
        calls[2] = 1;
        return ENOSPC;
    }
    now = __sync_add_and_fetch(&calls[0], 1);
    if (mode == COUNT && writes)
        __sync_add_and_fetch(&calls[3], 1);
    if (mode == SLOW) {
        syscall(SYS_nanosleep, &(struct timespec){0, 2000000}, NULL);
        calls[2] = 1;
    } else if (mode == KILL && now == moment) {
        calls[2] = 1;
        syscall(SYS_kill, getpid(), SIGKILL);
    } else if (mode == EIO_ONCE && now == moment) {
        calls[2] = 1;
        return EIO;
    } else if (mode == EIO_STAYS && (now == moment || (now > moment && strcmp(path, bad) == 0))) {
        strncpy(bad, path, sizeof bad - 1);
        calls[2] = 1;
        return EIO;
    }
    return 0;
}

static int strikes_fd(int fd, int writes)
{
    char link[64], path[4096];
    long n;
    if (mode == OFF || mode == CLOCK)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    return strikes(path, writes);
}

static int strikes_at(int folder, const char *name, int writes)
{
    char link[64], path[8192];
    long n = 0;
    if (mode == OFF || mode == CLOCK || name == NULL)
        return 0;
    if (name[0] != '/') {
        if (folder == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        n = syscall(SYS_readlink, link, path, 4096);
        if (n <= 0)
            return 0;
        path[n++] = '/';
    }
    strncpy(path + n, name, sizeof path - n - 1);
    path[sizeof path - 1] = 0;
    return strikes(path, writes);
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })
#define ENDS(expression) do { int e = (expression); if (e) { errno = e; return -1; } } while (0)

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list rest; int rights; \
        va_start(rest, flags); rights = va_arg(rest, int); va_end(rest); \
        ENDS(strikes_at(AT_FDCWD, path, flags & O_CREAT)); \
        return REAL(name)(path, flags, rights); \
    }
#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        va_list rest; int rights; \
        va_start(rest, flags); rights = va_arg(rest, int); va_end(rest); \
        ENDS(strikes_at(folder, path, flags & O_CREAT)); \
        return REAL(name)(folder, path, flags, rights); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void *to, size_t n) { ENDS(strikes_fd(fd, 0)); return REAL(read)(fd, to, n); }
ssize_t pread(int fd, void *to, size_t n, off_t at) { ENDS(strikes_fd(fd, 0)); return REAL(pread)(fd, to, n, at); }
ssize_t pread64(int fd, void *to, size_t n, off_t at) { ENDS(strikes_fd(fd, 0)); return REAL(pread64)(fd, to, n, at); }
ssize_t readv(int fd, const struct iovec *to, int n) { ENDS(strikes_fd(fd, 0)); return REAL(readv)(fd, to, n); }
ssize_t write(int fd, const void *what, size_t n) { ENDS(strikes_fd(fd, 1)); return REAL(write)(fd, what, n); }
ssize_t pwrite(int fd, const void *what, size_t n, off_t at) { ENDS(strikes_fd(fd, 1)); return REAL(pwrite)(fd, what, n, at); }
ssize_t pwrite64(int fd, const void *what, size_t n, off_t at) { ENDS(strikes_fd(fd, 1)); return REAL(pwrite64)(fd, what, n, at); }
ssize_t writev(int fd, const struct iovec *what, int n) { ENDS(strikes_fd(fd, 1)); return REAL(writev)(fd, what, n); }
ssize_t sendfile(int to, int from, off_t *at, size_t n) { ENDS(strikes_fd(to, 1)); return REAL(sendfile)(to, from, at, n); }
ssize_t sendfile64(int to, int from, off_t *at, size_t n) { ENDS(strikes_fd(to, 1)); return REAL(sendfile64)(to, from, at, n); }
ssize_t copy_file_range(int from, off_t *a, int to, off_t *b, size_t n, unsigned flags)
{
    ENDS(strikes_fd(to, 1));
    return REAL(copy_file_range)(from, a, to, b, n, flags);
}
int fsync(int fd) { ENDS(strikes_fd(fd, 1)); return REAL(fsync)(fd); }
int fdatasync(int fd) { ENDS(strikes_fd(fd, 1)); return REAL(fdatasync)(fd); }
int syncfs(int fd) { ENDS(strikes_fd(fd, 1)); return REAL(syncfs)(fd); }
int ftruncate(int fd, off_t n) { ENDS(strikes_fd(fd, 1)); return REAL(ftruncate)(fd, n); }
int ftruncate64(int fd, off_t n) { ENDS(strikes_fd(fd, 1)); return REAL(ftruncate64)(fd, n); }
int mkdir(const char *path, mode_t rights) { ENDS(strikes_at(AT_FDCWD, path, 1)); return REAL(mkdir)(path, rights); }
int rename(const char *from, const char *to) { ENDS(strikes_at(AT_FDCWD, to, 0)); return REAL(rename)(from, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    ENDS(strikes_at(b, to, 0));
    return REAL(renameat2)(a, from, b, to, flags);
}

/* Seconds by which the clock on the wall is wrong by now. */
static long wrong(void)
{
    if (mode != CLOCK && mode != COUNT)
        return 0;
    long now = __sync_add_and_fetch(&calls[1], 1);
    if (mode == COUNT)
        return 0;
    if (now >= moment && !jumped) {
        jumped = 1;
        calls[2] = 1;
    }
    return jumped ? jump : 0;
}

int clock_gettime(clockid_t which, struct timespec *at)
{
    int code = REAL(clock_gettime)(which, at);
    if (code == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) && calls)
        at->tv_sec += wrong();
    return code;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    int code = REAL(gettimeofday)(at, zone);
    if (code == 0 && calls)
        at->tv_sec += wrong();
    return code;
}

time_t time(time_t *at)
{
    time_t now = REAL(time)(NULL) + (calls ? wrong() : 0);
    if (at)
        *at = now;
    return now;
}
