/* A libopus that faults for real, for tests.
 *
 * It loads the real libopus (path in OPUSPOOL_FAULT_REAL) and forwards every call to it. Before a
 * decode it looks into the packet: the bytes "OPFAULT:" and a name choose a fault. faults.py puts
 * them into the padding of a valid packet, so nothing but this library can tell it from others.
 *
 * A name that ends in "-once" faults the first time only, counted across processes: it creates a
 * token file in the directory OPUSPOOL_FAULT_TOKENS, one for each packet; where the token is there
 * already, the packet decodes normally.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MARK "OPFAULT:"
#define ONCE "-once"
#define NAME_MAX_BYTES 40

enum { OPUS_INTERNAL_ERROR = -3, OPUS_GET_SAMPLE_RATE = 4029, OPUS_GET_FINAL_RANGE = 4031 };
enum { BROKEN_TEST = 97 };   /* exit code: the test's own set-up is wrong */
enum { FORWARD = INT_MIN };  /* what a fault returns where the packet is to be decoded after all */

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

#define REAL(result, name, params) \
    static result(*real) params; \
    if (!real) \
        real = (result(*) params)symbol(#name)

#define EXPORT(result, name, params, args) \
    result name params; \
    result name params \
    { \
        REAL(result, name, params); \
        return real args; \
    }

/* A ctl takes one argument at most: a pointer or an int, which the ABIs in use pass alike. */
#define EXPORT_CTL(name) \
    int name(void *state, int request, ...); \
    int name(void *state, int request, ...) \
    { \
        REAL(int, name, (void *, int, ...)); \
        va_list rest; \
        va_start(rest, request); \
        void *argument = va_arg(rest, void *); \
        va_end(rest); \
        return real(state, request, argument); \
    }

typedef const unsigned char *bytes;

EXPORT(const char *, opus_get_version_string, (void), ())
EXPORT(const char *, opus_strerror, (int code), (code))

EXPORT(int, opus_decoder_get_size, (int channels), (channels))
EXPORT(void *, opus_decoder_create, (int32_t rate, int channels, int *error), (rate, channels, error))
EXPORT(int, opus_decoder_init, (void *st, int32_t rate, int channels), (st, rate, channels))
EXPORT_CTL(opus_decoder_ctl)
EXPORT(int, opus_decoder_get_nb_samples, (const void *st, bytes p, int32_t n), (st, p, n))

EXPORT(int, opus_packet_parse,
       (bytes p, int32_t n, unsigned char *toc, bytes *frames, int16_t *sizes, int *offset),
       (p, n, toc, frames, sizes, offset))
EXPORT(int, opus_packet_get_bandwidth, (bytes p), (p))
EXPORT(int, opus_packet_get_samples_per_frame, (bytes p, int32_t rate), (p, rate))
EXPORT(int, opus_packet_get_nb_channels, (bytes p), (p))
EXPORT(int, opus_packet_get_nb_frames, (bytes p, int32_t n), (p, n))
EXPORT(int, opus_packet_get_nb_samples, (bytes p, int32_t n, int32_t rate), (p, n, rate))
EXPORT(int, opus_packet_has_lbrr, (bytes p, int32_t n), (p, n))
EXPORT(int, opus_packet_pad, (unsigned char *p, int32_t n, int32_t new_n), (p, n, new_n))
EXPORT(int32_t, opus_packet_unpad, (unsigned char *p, int32_t n), (p, n))
EXPORT(void, opus_pcm_soft_clip, (float *pcm, int n, int channels, float *memory),
       (pcm, n, channels, memory))

EXPORT(int, opus_encoder_get_size, (int channels), (channels))
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

struct call {
    void *decoder;
    char *pcm;
    size_t sample_bytes; /* of one sample of one channel */
    int frame_size;      /* samples per channel that the caller's buffer holds */
};

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

static int fault_segv(const struct call *call)
{
    (void)call;
    *(volatile char *)(uintptr_t)0x208F210000 = 1; /* the incident's address */
    return FORWARD;
}

static int fault_abort(const struct call *call)
{
    (void)call;
    abort();
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

/* ---- which packet faults ------------------------------------------------------------------- */

static int read_name(bytes packet, int32_t length, char name[NAME_MAX_BYTES])
{
    if (!packet || length <= 0)
        return 0;
    bytes mark = memmem(packet, (size_t)length, MARK, strlen(MARK));
    if (!mark)
        return 0;
    bytes start = mark + strlen(MARK);
    size_t left = (size_t)(packet + length - start);
    size_t size = strnlen((const char *)start, left < NAME_MAX_BYTES ? left : NAME_MAX_BYTES - 1);
    memcpy(name, start, size);
    name[size] = '\0';
    return 1;
}

static uint64_t digest(bytes packet, int32_t length)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (int32_t i = 0; i < length; i++)
        hash = (hash ^ packet[i]) * 1099511628211u;
    return hash;
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

static int strip_once(char *name)
{
    size_t size = strlen(name), tail = strlen(ONCE);
    if (size < tail || strcmp(name + size - tail, ONCE) != 0)
        return 0;
    name[size - tail] = '\0';
    return 1;
}

static int fault_of(bytes packet, int32_t length, const struct call *call)
{
    char name[NAME_MAX_BYTES];
    free_smashed();
    if (!read_name(packet, length, name))
        return FORWARD;
    if (strip_once(name) && !first_time(name, packet, length))
        return FORWARD;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        if (strcmp(faults[i].name, name) == 0)
            return faults[i].run(call);
    broken_test(name, "no such fault");
    return FORWARD;
}

#define EXPORT_DECODE(name, sample) \
    int name(void *st, bytes packet, int32_t length, sample *pcm, int frame_size, int fec); \
    int name(void *st, bytes packet, int32_t length, sample *pcm, int frame_size, int fec) \
    { \
        REAL(int, name, (void *, bytes, int32_t, sample *, int, int)); \
        struct call call = {st, (char *)pcm, sizeof *pcm, frame_size}; \
        int result = fault_of(packet, length, &call); \
        return result == FORWARD ? real(st, packet, length, pcm, frame_size, fec) : result; \
    }

EXPORT_DECODE(opus_decode, int16_t)
EXPORT_DECODE(opus_decode_float, float)

void opus_decoder_destroy(void *st);
void opus_decoder_destroy(void *st)
{
    REAL(void, opus_decoder_destroy, (void *));
    free_smashed();
    real(st);
}
