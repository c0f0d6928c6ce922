/* A disk that forgets: what survives a loss of power is what was flushed, and nothing else.
 *
 * Loaded into every process by LD_PRELOAD. Each fsync or fdatasync of a file keeps a copy of its content as it is now; each of
 * a folder keeps the list of its entries as it is now. Whatever was never flushed is not written down, so that a rename, a
 * creation or a write that nobody flushed has not happened: the strictest reading of POSIX, whatever the file system does.
 * Records are numbered across all processes; `power_loss_note` puts what a test was told among them, in its place.
 *
 * TUNESMITH_POWER_LOSS: the folder of the record. Line: `<number> file|folder|note <device>:<inode>:<born> ...`.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* The identity of a file: numbers of deleted ones are given out again, so its birth belongs to it. */
static void identify(int at, const char *name, int flags, char *out, size_t size, mode_t *mode) {
    struct statx found;
    memset(&found, 0, sizeof found);
    if (statx(at, name, flags | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_BTIME, &found) != 0) {
        snprintf(out, size, "-");
        *mode = 0;
        return;
    }
    snprintf(out, size, "%u-%llu-%lld%09u", found.stx_dev_minor, (unsigned long long)found.stx_ino,
             (long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    *mode = found.stx_mode;
}

static void fail(const char *what) {
    fprintf(stderr, "power_loss: %s: %s\n", what, strerror(errno));
    abort(); /* a record with a hole would prove nothing */
}

/* Open the record, locked: one at a time among all processes and threads. */
static int begin(const char *place, unsigned *number) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/log", place);
    int log = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || flock(log, LOCK_EX) != 0) fail(path);
    *number = 0;
    snprintf(path, sizeof path, "%s/count", place);
    int count = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (count < 0) fail(path);
    if (pread(count, number, sizeof *number, 0) < 0) fail(path);
    *number += 1;
    if (pwrite(count, number, sizeof *number, 0) != sizeof *number) fail(path);
    close(count);
    return log;
}

/* Unlock before closing: a process forked meanwhile holds the same lock. */
static void end(int log) {
    flock(log, LOCK_UN);
    close(log);
}

static void copy_content(const char *place, unsigned number, int fd) {
    char path[PATH_MAX], own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    int from = open(own, O_RDONLY | O_CLOEXEC); /* the file may be open for writing alone */
    if (from < 0) fail(own);
    snprintf(path, sizeof path, "%s/%u", place, number);
    int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (to < 0) fail(path);
    static __thread char buffer[1 << 16];
    ssize_t got;
    while ((got = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, got) != got) fail(path);
    if (got < 0) fail(own);
    close(from);
    close(to);
}

static void list_entries(const char *place, unsigned number, int fd) {
    char path[PATH_MAX], own[64], who[80], target[PATH_MAX];
    snprintf(path, sizeof path, "%s/%u", place, number);
    FILE *to = fopen(path, "we");
    if (!to) fail(path);
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    DIR *folder = opendir(own);
    if (!folder) fail(own);
    struct dirent *entry;
    while ((entry = readdir(folder))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        mode_t mode;
        identify(fd, entry->d_name, AT_SYMLINK_NOFOLLOW, who, sizeof who, &mode);
        if (!mode) continue; /* gone while we looked */
        target[0] = 0;
        if (S_ISLNK(mode)) {
            ssize_t length = readlinkat(fd, entry->d_name, target, sizeof target - 1);
            target[length > 0 ? length : 0] = 0;
        }
        fprintf(to, "%s%c%o%c%s%c%s%c", who, 0, mode, 0, entry->d_name, 0, target, 0);
    }
    closedir(folder);
    fclose(to);
}

static int flushed(int fd) {
    const char *place = getenv("TUNESMITH_POWER_LOSS");
    struct stat about;
    if (fstat(fd, &about) != 0) return -1;
    if (!place || !(S_ISREG(about.st_mode) || S_ISDIR(about.st_mode))) return 0;
    unsigned number;
    char who[80], line[160];
    mode_t mode;
    int log = begin(place, &number);
    identify(fd, "", AT_EMPTY_PATH, who, sizeof who, &mode);
    if (S_ISDIR(mode)) list_entries(place, number, fd);
    else copy_content(place, number, fd);
    int length = snprintf(line, sizeof line, "%u %s %s %o\n", number, S_ISDIR(mode) ? "folder" : "file", who, mode);
    if (write(log, line, length) != length) fail("log");
    end(log);
    return 0;
}

int fsync(int fd) { return flushed(fd); }

int fdatasync(int fd) { return flushed(fd); }

/* Put a word of the test into the record: at this moment it was told so much. */
void power_loss_note(const char *text) {
    const char *place = getenv("TUNESMITH_POWER_LOSS");
    if (!place) return;
    unsigned number;
    int log = begin(place, &number);
    dprintf(log, "%u note %s\n", number, text);
    end(log);
}
