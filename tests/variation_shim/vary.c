/* A preloaded library that changes what a process sees of the machine around it.
 *
 *   VARY_ORDER=reversed   folders are listed backwards
 *   VARY_PROCESSORS=N     there are N processors
 *   VARY_AFFINITY=N       this process, and none that it starts, may run on N of them, as a quota
 *                         of the container would have it
 *   VARY_SEEN=FILE        a line `seen PID PROGRAM` for every process that has this library in it,
 *                         and `exec PID PROGRAM` for every program that one of them becomes
 *
 * Programs are started with environments that were made for them, without LD_PRELOAD. So whatever
 * starts another program puts back LD_PRELOAD and the variables of this library and of libfaketime.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))
#define KEPT 16

static const char *const PREFIXES[] = {"LD_PRELOAD=", "VARY_", "FAKETIME", "NO_FAKE_STAT="};
static char *kept[KEPT];
static size_t kept_count;
static int reversed;
static long processors, affinity;
static const char *seen_file;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void note(const char *what, const char *program) {
    if (seen_file == NULL) return;
    char line[4200];
    int length = snprintf(line, sizeof line, "%s %d %s\n", what, (int)getpid(), program);
    int file = open(seen_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) return;
    if (write(file, line, (size_t)length) != length) abort();
    close(file);
}

static int is_kept(const char *entry) {
    for (size_t i = 0; i < sizeof PREFIXES / sizeof *PREFIXES; i++)
        if (strncmp(entry, PREFIXES[i], strlen(PREFIXES[i])) == 0) return 1;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    extern char **environ;
    for (char **entry = environ; *entry != NULL && kept_count < KEPT; entry++)
        if (is_kept(*entry) && strncmp(*entry, "VARY_AFFINITY=", 14) != 0)
            kept[kept_count++] = strdup(*entry);
    const char *order = getenv("VARY_ORDER"), *count = getenv("VARY_PROCESSORS");
    const char *file = getenv("VARY_SEEN");
    reversed = order != NULL && strcmp(order, "reversed") == 0;
    const char *own = getenv("VARY_AFFINITY");
    processors = count == NULL ? 0 : atol(count);
    affinity = own == NULL ? processors : atol(own);
    seen_file = file == NULL ? NULL : strdup(file);
    char program[4096];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length < 0 ? 0 : length] = 0;
    note("seen", program);
}

/* ---- every child ---- */

/* `env` without what is kept, and then what is kept. On the stack: the caller may be a vfork. */
#define WITH_KEPT(env, to)                                                      \
    size_t to##_count = 0;                                                      \
    while ((env) != NULL && (env)[to##_count] != NULL) to##_count++;            \
    char *to[to##_count + KEPT + 1];                                            \
    size_t to##_used = 0;                                                       \
    for (size_t i = 0; i < to##_count; i++)                                     \
        if (!is_kept((env)[i])) to[to##_used++] = (char *)(env)[i];             \
    for (size_t i = 0; i < kept_count; i++) to[to##_used++] = kept[i];          \
    to[to##_used] = NULL

int execve(const char *path, char *const argv[], char *const env[]) {
    WITH_KEPT(env, whole);
    if (access(path, X_OK) == 0) note("exec", path);
    return REAL(execve)(path, argv, whole);
}

int execvpe(const char *file, char *const argv[], char *const env[]) {
    WITH_KEPT(env, whole);
    return REAL(execvpe)(file, argv, whole);
}

int fexecve(int file, char *const argv[], char *const env[]) {
    WITH_KEPT(env, whole);
    return REAL(fexecve)(file, argv, whole);
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *how, char *const argv[], char *const env[]) {
    WITH_KEPT(env, whole);
    return REAL(posix_spawn)(pid, path, actions, how, argv, whole);
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *how, char *const argv[], char *const env[]) {
    WITH_KEPT(env, whole);
    return REAL(posix_spawnp)(pid, file, actions, how, argv, whole);
}

/* ---- folders, backwards ---- */

struct listing {
    DIR *folder;
    struct dirent **entries;
    size_t count, given;
    struct listing *next;
};

static struct listing *listings;
static pthread_mutex_t listings_lock = PTHREAD_MUTEX_INITIALIZER;

static struct dirent *copy_of(const struct dirent *entry) {
    struct dirent *copy = malloc(entry->d_reclen);
    if (copy == NULL) abort();
    return memcpy(copy, entry, entry->d_reclen);
}

/* The listing of an open folder, read to its end the first time; NULL when that failed. */
static struct listing *listing_of(DIR *folder, int make) {
    struct listing *found = listings;
    while (found != NULL && found->folder != folder) found = found->next;
    if (found != NULL || !make) return found;
    found = calloc(1, sizeof *found);
    if (found == NULL) abort();
    found->folder = folder;
    size_t room = 0;
    const struct dirent *entry;
    while ((entry = REAL(readdir)(folder)) != NULL) {
        if (found->count == room) {
            room = room ? 2 * room : 64;
            found->entries = realloc(found->entries, room * sizeof *found->entries);
            if (found->entries == NULL) abort();
        }
        found->entries[found->count++] = copy_of(entry);
    }
    found->next = listings;
    return listings = found;
}

static void forget(DIR *folder) {
    struct listing **link = &listings;
    while (*link != NULL && (*link)->folder != folder) link = &(*link)->next;
    struct listing *gone = *link;
    if (gone == NULL) return;
    *link = gone->next;
    for (size_t i = 0; i < gone->count; i++) free(gone->entries[i]);
    free(gone->entries);
    free(gone);
}

struct dirent *readdir(DIR *folder) {
    if (!reversed) return REAL(readdir)(folder);
    int before = errno;
    errno = 0;
    pthread_mutex_lock(&listings_lock);
    struct listing *all = listing_of(folder, 1);
    struct dirent *entry =
        all->given < all->count ? all->entries[all->count - ++all->given] : NULL;
    pthread_mutex_unlock(&listings_lock);
    if (errno == 0) errno = before; /* else reading failed, which the caller is told at the end */
    return entry;
}

struct dirent64 *readdir64(DIR *folder) { return (struct dirent64 *)readdir(folder); }

void rewinddir(DIR *folder) {
    pthread_mutex_lock(&listings_lock);
    forget(folder);
    pthread_mutex_unlock(&listings_lock);
    REAL(rewinddir)(folder);
}

int closedir(DIR *folder) {
    pthread_mutex_lock(&listings_lock);
    forget(folder);
    pthread_mutex_unlock(&listings_lock);
    return REAL(closedir)(folder);
}

/* An order that the caller asked for is kept. */
static int turned(struct dirent **names, int count, int sorted) {
    for (int i = 0; reversed && !sorted && i < count / 2; i++) {
        struct dirent *other = names[i];
        names[i] = names[count - 1 - i];
        names[count - 1 - i] = other;
    }
    return count;
}

int scandir(const char *path, struct dirent ***names, int (*wanted)(const struct dirent *),
            int (*order)(const struct dirent **, const struct dirent **)) {
    int count = REAL(scandir)(path, names, wanted, order);
    return count < 0 ? count : turned(*names, count, order != NULL);
}

int scandir64(const char *path, struct dirent64 ***names, int (*wanted)(const struct dirent64 *),
              int (*order)(const struct dirent64 **, const struct dirent64 **)) {
    int count = REAL(scandir64)(path, names, wanted, order);
    return count < 0 ? count : turned((struct dirent **)*names, count, order != NULL);
}

/* ---- another number of processors ---- */

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    if (affinity == 0) return REAL(sched_getaffinity)(pid, size, set);
    if (size * 8 < (size_t)affinity) {
        errno = EINVAL;
        return -1;
    }
    memset(set, 0, size);
    for (long i = 0; i < affinity; i++) CPU_SET_S((size_t)i, size, set);
    return 0;
}

int get_nprocs(void) { return processors ? (int)processors : REAL(get_nprocs)(); }

int get_nprocs_conf(void) { return processors ? (int)processors : REAL(get_nprocs_conf)(); }

long sysconf(int name) {
    if (processors && (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF))
        return processors;
    return REAL(sysconf)(name);
}

/* ---- beside another date ---- */

/* libfaketime moves the end of a sleep although the clock it counts by is left alone. */
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until,
                    struct timespec *left) {
    void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    __typeof__(&clock_nanosleep) sleep_on = dlsym(libc, "clock_nanosleep");
    return sleep_on(clock, flags, until, left);
}
