/* A libopus that faults for real, for tests, on POSIX; what faults and how often: faultopus.h.
 *
 * It loads the real libopus (path in OPUSPOOL_FAULT_REAL) and forwards every call to it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EXPORTED
#include "faultopus.h"

enum { OPUS_INTERNAL_ERROR = -3, OPUS_GET_SAMPLE_RATE = 4029, OPUS_GET_FINAL_RANGE = 4031 };

/* ---- the real library ---------------------------------------------------------------------- */

static void *real_library;

static void broken_test(const char *what, const char *why)
{
    dprintf(2, "faultopus: %s: %s\n", what, why);
    _exit(BROKEN_TEST);
}

static void *symbol(const char *name)
{
    if (!real_library) {
        const char *path = getenv("OPUSPOOL_FAULT_REAL");
        if (!path)
            broken_test("OPUSPOOL_FAULT_REAL", "not set");
        real_library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!real_library)
            broken_test(path, dlerror());
    }
    void *found = dlsym(real_library, name);
    if (!found)
        broken_test(name, "not in the real libopus");
    return found;
}

EXPORT(int, opus_decoder_init, (void *st, int32_t rate, int channels), (st, rate, channels))
EXPORT(int, opus_decoder_get_nb_samples, (const void *st, bytes p, int32_t n), (st, p, n))

EXPORT(int, opus_packet_get_bandwidth, (bytes p), (p))
EXPORT(int, opus_packet_get_samples_per_frame, (bytes p, int32_t rate), (p, rate))
EXPORT(int, opus_packet_get_nb_channels, (bytes p), (p))
EXPORT(int, opus_packet_get_nb_frames, (bytes p, int32_t n), (p, n))
EXPORT(int, opus_packet_has_lbrr, (bytes p, int32_t n), (p, n))
EXPORT(int, opus_packet_pad, (unsigned char *p, int32_t n, int32_t new_n), (p, n, new_n))
EXPORT(int32_t, opus_packet_unpad, (unsigned char *p, int32_t n), (p, n))
EXPORT(void, opus_pcm_soft_clip, (float *pcm, int n, int channels, float *memory),
       (pcm, n, channels, memory))

EXPORT(void *, opus_encoder_create, (int32_t rate, int channels, int use, int *error),
       (rate, channels, use, error))
EXPORT(int, opus_encoder_init, (void *st, int32_t rate, int channels, int use),
       (st, rate, channels, use))
EXPORT(int32_t, opus_encode, (void *st, const int16_t *pcm, int n, unsigned char *out, int32_t max),
       (st, pcm, n, out, max))
EXPORT(int32_t, opus_encode_float,
       (void *st, const float *pcm, int n, unsigned char *out, int32_t max), (st, pcm, n, out, max))
EXPORT_CTL(opus_encoder_ctl)
EXPORT(void, opus_encoder_destroy, (void *st), (st))

/* ---- the faults ---------------------------------------------------------------------------- */

static void die_by(int number)
{
    signal(number, SIG_DFL);
    raise(number);
    _exit(BROKEN_TEST);
}

static void pause_for(time_t seconds, long nanoseconds)
{
    struct timespec left = {seconds, nanoseconds};
    while (nanosleep(&left, &left) == -1 && errno == EINTR)
        ;
}

static int fault_bus(const struct call *call)
{
    (void)call;
    FILE *empty = tmpfile();
    if (!empty)
        broken_test("bus", "no temporary file");
    volatile char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(empty), 0);
    return page[0] ? FORWARD : FORWARD; /* behind the end of the file */
}

static int fault_ill(const struct call *call)
{
    (void)call;
#if defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("ud2");
#elif defined(__aarch64__)
    __asm__ volatile("udf #0");
#endif
    die_by(SIGILL);
    return FORWARD;
}

static int fault_fpe(const struct call *call)
{
    (void)call;
    volatile int zero = 0;
    volatile int quotient = 1 / zero;
    (void)quotient;
    die_by(SIGFPE); /* processors that do not trap on it */
    return FORWARD;
}

static int fault_kill(const struct call *call)
{
    (void)call;
    raise(SIGKILL);
    return FORWARD;
}

static volatile int never;

static __attribute__((noinline)) int deeper(int depth)
{
    volatile char frame[4096];
    frame[0] = (char)depth;
    return never ? 0 : deeper(depth + 1) + frame[0];
}

static int fault_stack(const struct call *call)
{
    (void)call;
    return deeper(0);
}

static int fault_loop(const struct call *call)
{
    (void)call;
    while (!never)
        ;
    return FORWARD;
}

static int fault_sleep(const struct call *call)
{
    (void)call;
    pause_for(3600, 0);
    return FORWARD;
}

static int fault_slow(const struct call *call)
{
    (void)call;
    pause_for(0, 50 * 1000 * 1000);
    return FORWARD;
}

static void *smashed;

/* Writes past a block into the header of the next one. Both are ours, so that nothing but our own
 * free() finds it; both are too long for glibc's per-thread caches (1032 bytes), which check less. */
static int fault_smash(const struct call *call)
{
    enum { BLOCK = 4000, PAST = 2 * sizeof(size_t), TRIES = 1000 };
    (void)call;
    char *block = NULL, *next = malloc(BLOCK);
    for (int i = 0; i < TRIES && (!block || next != block + BLOCK + PAST); i++) {
        block = next;
        next = malloc(BLOCK);
    }
    for (size_t i = 0; i < BLOCK + PAST; i++)
        ((volatile char *)block)[i] = 0x49;
    smashed = block;
    return FORWARD;
}

static void free_smashed(void)
{
    void *block = smashed;
    smashed = NULL;
    free(block);
}

/* Writes as a decoder does that takes the caller's buffer for one sample longer than it is: so little
 * shows only where a guard page ends the buffer. */
static int fault_overrun(const struct call *call)
{
    const int *head = call->decoder; /* struct OpusDecoder: two offsets, channels, sample rate */
    int32_t rate = 0;
    REAL(int, opus_decoder_ctl, (void *, int, ...));
    real(call->decoder, OPUS_GET_SAMPLE_RATE, &rate);
    if (head[3] != rate)
        broken_test("overrun", "this libopus keeps its channels elsewhere");
    size_t end = ((size_t)call->frame_size * (size_t)head[2] + 1) * call->sample_bytes;
    for (size_t i = 0; i < end; i++)
        ((volatile char *)call->pcm)[i] = 0x55;
    return FORWARD;
}

static int fault_badreturn(const struct call *call)
{
    (void)call;
    return 100000;
}

static int fault_negative(const struct call *call)
{
    (void)call;
    return OPUS_INTERNAL_ERROR;
}

static int fault_exit(const struct call *call)
{
    (void)call;
    _exit(3);
}

static int fault_exit0(const struct call *call)
{
    (void)call;
    _exit(0);
}

static int fault_leak(const struct call *call)
{
    enum { MEGABYTE = 1 << 20 };
    (void)call;
    volatile char *block = malloc(MEGABYTE);
    for (size_t i = 0; block && i < MEGABYTE; i += 1024)
        block[i] = 1;
    return FORWARD;
}

static int fault_stderr(const struct call *call)
{
    (void)call;
    char line[1024];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 1024; i++)
        if (write(2, line, sizeof line) == -1 && errno != EINTR && errno != EAGAIN)
            break;
    return FORWARD;
}

static void *die_soon(void *unused)
{
    (void)unused;
    pause_for(0, 1000 * 1000);
    raise(SIGKILL);
    return NULL;
}

static int fault_after(const struct call *call)
{
    (void)call;
    pthread_t thread;
    if (pthread_create(&thread, NULL, die_soon, NULL))
        broken_test("after", "no thread");
    return FORWARD;
}

/* Only in a decoder that has decoded before: a fresh one's final range is 0. */
static int fault_stateful(const struct call *call)
{
    REAL(int, opus_decoder_ctl, (void *, int, ...));
    uint32_t final_range = 0;
    real(call->decoder, OPUS_GET_FINAL_RANGE, &final_range);
    return final_range ? fault_segv(call) : FORWARD;
}

static const struct {
    const char *name;
    int (*run)(const struct call *);
} faults[] = {
    {"segv", fault_segv},         {"abort", fault_abort},   {"bus", fault_bus},
    {"ill", fault_ill},           {"fpe", fault_fpe},       {"kill", fault_kill},
    {"stack", fault_stack},       {"loop", fault_loop},     {"sleep", fault_sleep},
    {"slow", fault_slow},         {"smash", fault_smash},   {"overrun", fault_overrun},
    {"badreturn", fault_badreturn}, {"negative", fault_negative}, {"exit", fault_exit},
    {"exit0", fault_exit0},       {"leak", fault_leak},     {"stderr", fault_stderr},
    {"after", fault_after},       {"stateful", fault_stateful},
};

static int run_fault(const char *name, const struct call *call)
{
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        if (strcmp(faults[i].name, name) == 0)
            return faults[i].run(call);
    broken_test(name, "no such fault");
    return FORWARD;
}

static void before_decode(void)
{
    free_smashed();
}

static int first_time(const char *name, bytes packet, int32_t length)
{
    const char *tokens = getenv("OPUSPOOL_FAULT_TOKENS");
    if (!tokens)
        broken_test("OPUSPOOL_FAULT_TOKENS", "not set, but a packet faults once");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s-%016llx", tokens, name,
             (unsigned long long)digest(packet, length));
    int token = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (token == -1 && errno != EEXIST)
        broken_test(path, strerror(errno));
    if (token != -1)
        close(token);
    return token != -1;
}

void opus_decoder_destroy(void *st);
void opus_decoder_destroy(void *st)
{
    REAL(void, opus_decoder_destroy, (void *));
    free_smashed();
    real(st);
}
