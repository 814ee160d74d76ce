/* What the faulting libraries of all systems share: how a call is forwarded, and which packet faults.
 *
 * Before a decode such a library looks into the packet: the bytes "OPFAULT:" and a name choose a
 * fault. faults.py puts them into the padding of a valid packet, so nothing but this library can
 * tell it from others.
 *
 * A name that ends in "-once" faults the first time only, counted across processes: it creates a
 * token file in the directory OPUSPOOL_FAULT_TOKENS, one for each packet; where the token is there
 * already, the packet decodes normally.
 *
 * Each system's file defines EXPORTED before it includes this one, and behind it the functions that
 * are only declared here.
 */
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MARK "OPFAULT:"
#define ONCE "-once"
enum { NAME_BYTES = 40 };
enum { BROKEN_TEST = 97 };   /* exit code: the test's own set-up is wrong */
enum { FORWARD = INT_MIN };  /* what a fault returns where the packet is to be decoded after all */

typedef const unsigned char *bytes;

struct call {
    void *decoder;
    char *pcm;
    size_t sample_bytes; /* of one sample of one channel */
    int frame_size;      /* samples per channel that the caller's buffer holds */
};

/* ---- what each system's file defines ------------------------------------------------------- */

static void broken_test(const char *what, const char *why); /* does not return */
static void *symbol(const char *name);                      /* of the real library */
static int run_fault(const char *name, const struct call *call);
static int first_time(const char *name, bytes packet, int32_t length);
static void before_decode(void);

/* ---- calls are forwarded ------------------------------------------------------------------- */

#define REAL(result, name, params) \
    static result(*real) params; \
    if (!real) \
        real = (result(*) params)symbol(#name)

#define EXPORT(result, name, params, args) \
    EXPORTED result name params; \
    EXPORTED result name params \
    { \
        REAL(result, name, params); \
        return real args; \
    }

/* A ctl takes one argument at most: a pointer or an int, which the ABIs in use pass alike. */
#define EXPORT_CTL(name) \
    EXPORTED int name(void *state, int request, ...); \
    EXPORTED int name(void *state, int request, ...) \
    { \
        REAL(int, name, (void *, int, ...)); \
        va_list rest; \
        va_start(rest, request); \
        void *argument = va_arg(rest, void *); \
        va_end(rest); \
        return real(state, request, argument); \
    }

EXPORT(const char *, opus_get_version_string, (void), ())
EXPORT(const char *, opus_strerror, (int code), (code))
EXPORT(int, opus_encoder_get_size, (int channels), (channels)) /* PyOgg looks for it */
EXPORT(int, opus_decoder_get_size, (int channels), (channels))
EXPORT(void *, opus_decoder_create, (int32_t rate, int channels, int *error), (rate, channels, error))
EXPORT_CTL(opus_decoder_ctl)
EXPORT(int, opus_packet_parse,
       (bytes p, int32_t n, unsigned char *toc, bytes *frames, int16_t *sizes, int *offset),
       (p, n, toc, frames, sizes, offset))
EXPORT(int, opus_packet_get_nb_samples, (bytes p, int32_t n, int32_t rate), (p, n, rate))

/* ---- which packet faults ------------------------------------------------------------------- */

static int read_name(bytes packet, int32_t length, char name[NAME_BYTES])
{
    size_t mark = strlen(MARK), size = packet && length > 0 ? (size_t)length : 0;
    for (size_t at = 0; at + mark <= size; at++) {
        if (memcmp(packet + at, MARK, mark) != 0)
            continue;
        size_t left = size - at - mark, most = left < NAME_BYTES ? left : NAME_BYTES - 1;
        const char *start = (const char *)packet + at + mark;
        const char *end = memchr(start, 0, most);
        size_t chosen = end ? (size_t)(end - start) : most;
        memcpy(name, start, chosen);
        name[chosen] = '\0';
        return 1;
    }
    return 0;
}

static uint64_t digest(bytes packet, int32_t length)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (int32_t i = 0; i < length; i++)
        hash = (hash ^ packet[i]) * 1099511628211u;
    return hash;
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
    char name[NAME_BYTES];
    before_decode();
    if (!read_name(packet, length, name))
        return FORWARD;
    if (strip_once(name) && !first_time(name, packet, length))
        return FORWARD;
    return run_fault(name, call);
}

#define EXPORT_DECODE(name, sample) \
    EXPORTED int name(void *st, bytes packet, int32_t length, sample *pcm, int frame_size, int fec); \
    EXPORTED int name(void *st, bytes packet, int32_t length, sample *pcm, int frame_size, int fec) \
    { \
        REAL(int, name, (void *, bytes, int32_t, sample *, int, int)); \
        struct call call = {st, (char *)pcm, sizeof *pcm, frame_size}; \
        int result = fault_of(packet, length, &call); \
        return result == FORWARD ? real(st, packet, length, pcm, frame_size, fec) : result; \
    }

EXPORT_DECODE(opus_decode, int16_t)
EXPORT_DECODE(opus_decode_float, float)

/* ---- the faults that are the same everywhere ----------------------------------------------- */

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
