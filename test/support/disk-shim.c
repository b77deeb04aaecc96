/*
 * A disk for tests: preloaded (LD_PRELOAD) into server, agents and whatever they start, it stands between them and the
 * system calls that change or sync files below DISK_SHIM_FOLDERS (absolute, separated by ':').
 *
 * - DISK_SHIM_TRACE: every such call that succeeded is appended to this file, with its bytes, by one append, so that the
 *   order of the records of all processes is one in which the calls may have happened (disk-trace.ts reads them).
 * - DISK_SHIM_CONTROL: a file of `struct control`, mapped shared, by which the test makes calls on some paths fail or
 *   wait while the processes run (disk-shim.ts writes it).
 *
 * What goes through stdio (SoftHSM's object files) is not seen as writes; a sync records a small file's whole content
 * with DISK_SHIM_CONTENT=1.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
  int32_t sync_errno;  /* fsync and fdatasync fail with it */
  int32_t write_errno; /* whatever changes a file or folder fails with it */
  int32_t sync_ms;     /* fsync and fdatasync wait that long first */
  int32_t failed;      /* how many calls were failed */
  int32_t syncs_after_failure; /* syncs that were asked for after a call had failed */
  int32_t reserved[11];
  char below[PATH_MAX]; /* what the paths begin with that all of this is about */
};

struct record {
  uint32_t magic, type, path_length, data_length;
  uint64_t inode, offset;
  int32_t process, reserved;
};

#define MAGIC 0x4b534944u
#define CONTENT_LIMIT (1 << 20)

static char folders[4096];
static int trace = -1, with_content;
static struct control *control;

__attribute__((constructor)) static void start(void) {
  const char *value = getenv("DISK_SHIM_FOLDERS");
  if (value) snprintf(folders, sizeof folders, "%s", value);
  if ((value = getenv("DISK_SHIM_CONTENT"))) with_content = *value == '1';
  if ((value = getenv("DISK_SHIM_TRACE"))) {
    int fd = syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    /* Out of the way of the descriptors that a parent hands down. */
    trace = fcntl(fd, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, fd);
  }
  if ((value = getenv("DISK_SHIM_CONTROL"))) {
    int fd = syscall(SYS_openat, AT_FDCWD, value, O_RDWR | O_CLOEXEC, 0);
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    syscall(SYS_close, fd);
  }
}

#define REAL(name) ((__typeof__(&name))real_of(#name))

static void *real_of(const char *name) { return dlsym(RTLD_NEXT, name); }

static int is_below(const char *path, const char *folder, size_t length) {
  return length > 0 && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int is_watched(const char *path) {
  for (const char *at = folders; *at;) {
    size_t length = strcspn(at, ":");
    if (is_below(path, at, length)) return 1;
    at += length + (at[length] == ':');
  }
  return 0;
}

/* The absolute path of a name: its folder is resolved, the name itself is not followed. */
static int whole_path(int folder, const char *name, char out[PATH_MAX]) {
  char copy[PATH_MAX], base[PATH_MAX];
  if (name[0] != '/' && folder != AT_FDCWD) {
    char link[64], of_folder[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t got = readlink(link, of_folder, sizeof of_folder - 1);
    if (got < 0) return 0;
    of_folder[got] = 0;
    if (snprintf(copy, sizeof copy, "%s/%s", of_folder, name) >= (int)sizeof copy) return 0;
  } else if (snprintf(copy, sizeof copy, "%s", name) >= (int)sizeof copy) return 0;
  size_t length = strlen(copy);
  while (length > 1 && copy[length - 1] == '/') copy[--length] = 0;
  char *slash = strrchr(copy, '/');
  if (slash) *slash = 0;
  int saved = errno;
  char *found = realpath(slash ? (copy[0] ? copy : "/") : ".", base);
  errno = saved;
  return found && snprintf(out, PATH_MAX, "%s/%s", base, slash ? slash + 1 : copy) < PATH_MAX;
}

/* The path of an open regular file or folder, if it is a watched one. */
static int watched_fd(int fd, struct stat *st, char path[PATH_MAX]) {
  int saved = errno, yes = 0;
  if (folders[0] && fstat(fd, st) == 0 && (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode))) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, path, PATH_MAX - 1);
    if (got > 0) {
      path[got] = 0;
      yes = is_watched(path);
    }
  }
  errno = saved;
  return yes;
}

/* Inode numbers alone are not unique: small filesystems all begin at one. */
static uint64_t identity(const struct stat *st) { return (uint64_t)st->st_ino ^ ((uint64_t)st->st_dev << 44); }

static void note(char type, uint64_t inode, uint64_t offset, const char *path, const void *bytes, size_t length) {
  if (trace < 0) return;
  struct record head = {MAGIC, (uint32_t)type, strlen(path), length, inode, offset, getpid(), 0};
  struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path_length}, {(void *)bytes, length}};
  int saved = errno;
  if (syscall(SYS_writev, trace, parts, 3) != (ssize_t)(sizeof head + head.path_length + length)) abort();
  errno = saved;
}

static int concerns(const char *path) {
  return control && control->below[0] && strncmp(path, control->below, strnlen(control->below, PATH_MAX)) == 0;
}

/* True, with errno set, if a change of this path is to fail. */
static int refused(const char *path) {
  if (!control || !control->write_errno || !concerns(path)) return 0;
  __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
  errno = control->write_errno;
  return 1;
}

/* --- content --- */

static ssize_t wrote(int fd, off_t offset, const void *bytes, ssize_t length, struct stat *st, const char *path) {
  if (length > 0) {
    if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - length;
    note('W', identity(st), offset, path, bytes, length);
  }
  return length;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  struct stat st;
  char path[PATH_MAX];
  if (!watched_fd(fd, &st, path)) return REAL(write)(fd, bytes, length);
  return refused(path) ? -1 : wrote(fd, -1, bytes, REAL(write)(fd, bytes, length), &st, path);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  struct stat st;
  char path[PATH_MAX];
  if (!watched_fd(fd, &st, path)) return REAL(pwrite64)(fd, bytes, length, offset);
  return refused(path) ? -1 : wrote(fd, offset, bytes, REAL(pwrite64)(fd, bytes, length, offset), &st, path);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  struct stat st;
  char path[PATH_MAX];
  if (!watched_fd(fd, &st, path)) return REAL(writev)(fd, parts, count);
  ssize_t sum = 0;
  for (int at = 0; at < count; at++) {
    ssize_t done = write(fd, parts[at].iov_base, parts[at].iov_len);
    if (done < 0) return sum > 0 ? sum : -1;
    sum += done;
    if ((size_t)done < parts[at].iov_len) break;
  }
  return sum;
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
  struct stat st;
  char path[PATH_MAX];
  if (!watched_fd(fd, &st, path)) return REAL(pwritev64)(fd, parts, count, offset);
  ssize_t sum = 0;
  for (int at = 0; at < count; at++) {
    ssize_t done = pwrite64(fd, parts[at].iov_base, parts[at].iov_len, offset + sum);
    if (done < 0) return sum > 0 ? sum : -1;
    sum += done;
    if ((size_t)done < parts[at].iov_len) break;
  }
  return sum;
}

int ftruncate64(int fd, off64_t length) {
  struct stat st;
  char path[PATH_MAX];
  if (!watched_fd(fd, &st, path)) return REAL(ftruncate64)(fd, length);
  if (refused(path)) return -1;
  int done = REAL(ftruncate64)(fd, length);
  if (done == 0) note('T', identity(&st), length, path, "", 0);
  return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int synced(int fd, int (*real)(int)) {
  struct stat st;
  char path[PATH_MAX];
  if (!watched_fd(fd, &st, path)) return real(fd);
  if (control && concerns(path)) {
    if (control->failed > 0) __atomic_add_fetch(&control->syncs_after_failure, 1, __ATOMIC_SEQ_CST);
    if (control->sync_ms > 0) {
      struct timespec pause = {control->sync_ms / 1000, control->sync_ms % 1000 * 1000000L};
      nanosleep(&pause, NULL);
    }
    if (control->sync_errno) {
      __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
      note('F', identity(&st), 0, path, "", 0);
      errno = control->sync_errno;
      return -1;
    }
  }
  int done = real(fd);
  if (done != 0) return done;
  static char nothing[1];
  void *content = nothing;
  size_t length = 0;
  if (with_content && S_ISREG(st.st_mode) && fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= CONTENT_LIMIT) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    /* The descriptor itself may be for writing only. */
    int again = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
    void *mapped = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, again, 0);
    syscall(SYS_close, again);
    if (mapped != MAP_FAILED) {
      content = mapped;
      length = st.st_size;
    }
  }
  note(S_ISDIR(st.st_mode) ? 'D' : 'S', identity(&st), length > 0, path, content, length);
  if (length > 0) munmap(content, length);
  return 0;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

/* --- names --- */

static int opened(int folder, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  int changes = (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_ACCMODE) != O_RDONLY;
  if (!folders[0] || !changes || (flags & O_TMPFILE) == O_TMPFILE || !whole_path(folder, name, path) ||
      !is_watched(path)) {
    return syscall(SYS_openat, folder, name, flags, mode);
  }
  if (refused(path)) return -1;
  int saved = errno;
  struct stat st;
  int was_there = stat(path, &st) == 0;
  errno = saved;
  int fd = syscall(SYS_openat, folder, name, flags, mode);
  if (fd < 0) return fd;
  saved = errno;
  fstat(fd, &st);
  if (S_ISREG(st.st_mode)) {
    if (!was_there) note('C', identity(&st), 0, path, "", 0);
    else if (flags & O_TRUNC) note('T', identity(&st), 0, path, "", 0);
  }
  errno = saved;
  return fd;
}

#define MODE_OF(flags)                                                                   \
  mode_t mode = 0;                                                                       \
  if ((flags) & (O_CREAT | O_TMPFILE)) {                                                 \
    va_list rest;                                                                        \
    va_start(rest, flags);                                                               \
    mode = va_arg(rest, mode_t);                                                         \
    va_end(rest);                                                                        \
  }

int open64(const char *name, int flags, ...) {
  MODE_OF(flags)
  return opened(AT_FDCWD, name, flags, mode);
}
int open(const char *name, int flags, ...) {
  MODE_OF(flags)
  return opened(AT_FDCWD, name, flags, mode);
}
int openat64(int folder, const char *name, int flags, ...) {
  MODE_OF(flags)
  return opened(folder, name, flags, mode);
}
int openat(int folder, const char *name, int flags, ...) {
  MODE_OF(flags)
  return opened(folder, name, flags, mode);
}

/* A read-only filesystem says so to whoever asks, root too. */
int access(const char *name, int mode) {
  char path[PATH_MAX];
  if ((mode & W_OK) && control && control->write_errno == EROFS && whole_path(AT_FDCWD, name, path) && concerns(path)) {
    errno = EROFS;
    return -1;
  }
  return REAL(access)(name, mode);
}

static int watched_name(int folder, const char *name, char path[PATH_MAX]) {
  return folders[0] && whole_path(folder, name, path) && is_watched(path);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  char source[PATH_MAX], target[PATH_MAX];
  if (!watched_name(from_folder, from, source) || !watched_name(to_folder, to, target)) {
    return syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
  }
  if (refused(target)) return -1;
  int done = syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
  if (done == 0) note('R', 0, 0, source, target, strlen(target));
  return done;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
  char source[PATH_MAX], target[PATH_MAX];
  int known = watched_name(from_folder, from, source) && watched_name(to_folder, to, target);
  if (known && refused(target)) return -1;
  int done = syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
  if (done == 0 && known) note('L', 0, 0, source, target, strlen(target));
  return done;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlink(const char *content, const char *name) {
  char path[PATH_MAX];
  int known = watched_name(AT_FDCWD, name, path);
  if (known && refused(path)) return -1;
  int done = syscall(SYS_symlinkat, content, AT_FDCWD, name);
  if (done == 0 && known) note('Y', 0, 0, path, content, strlen(content));
  return done;
}

int mkdir(const char *name, mode_t mode) {
  char path[PATH_MAX];
  int known = watched_name(AT_FDCWD, name, path);
  if (known && refused(path)) return -1;
  int done = syscall(SYS_mkdirat, AT_FDCWD, name, mode);
  if (done == 0 && known) note('K', 0, 0, path, "", 0);
  return done;
}

int unlinkat(int folder, const char *name, int flags) {
  char path[PATH_MAX];
  int known = watched_name(folder, name, path);
  if (known && refused(path)) return -1;
  int done = syscall(SYS_unlinkat, folder, name, flags);
  if (done == 0 && known) note('U', 0, 0, path, "", 0);
  return done;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) {
  if (unlink(name) == 0) return 0;
  return errno == EISDIR || errno == EPERM ? rmdir(name) : -1;
}
