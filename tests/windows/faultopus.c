/* The faulting libopus for Windows: the sibling of tests/faultopus.c, with Windows' ways to die.
 *
 * It loads the real opus.dll (path in OPUSPOOL_FAULT_REAL) and forwards what opuspool's worker
 * calls. Before a decode it looks into the packet for "OPFAULT:" and a fault's name, as the sibling
 * does. ctypes catches what is raised on its own thread; "thread-" before a name raises it on
 * another one, where nothing catches it and Windows ends the process with the code.
 */
#include <io.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#define MARK "OPFAULT:"
#define ONCE "-once"
#define THREAD "thread-"
#define EXPORTED __declspec(dllexport)
enum { NAME_BYTES = 40, BROKEN_TEST = 97, FORWARD = INT_MIN, CORRUPTED = 0xC0000374 };

/* ---- the real library ---------------------------------------------------------------------- */

static void broken_test(const char *what, const char *why)
{
    fprintf(stderr, "faultopus: %s: %s\n", what, why);
    fflush(stderr);
    _exit(BROKEN_TEST);
}

static void *symbol(const char *name)
{
    static HMODULE real_library;
    if (!real_library) {
        const wchar_t *path = _wgetenv(L"OPUSPOOL_FAULT_REAL");
        if (!path)
            broken_test("OPUSPOOL_FAULT_REAL", "not set");
        real_library = LoadLibraryExW(path, NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
        if (!real_library)
            broken_test("OPUSPOOL_FAULT_REAL", "cannot be loaded");
    }
    void *found = (void *)(uintptr_t)GetProcAddress(real_library, name);
    if (!found)
        broken_test(name, "not in the real libopus");
    return found;
}

#define REAL(result, name, params) \
    static result(*real) params; \
    if (!real) \
        real = (result(*) params)symbol(#name)

#define EXPORT(result, name, params, args) \
    EXPORTED result name params \
    { \
        REAL(result, name, params); \
        return real args; \
    }

typedef const unsigned char *bytes;

EXPORT(const char *, opus_get_version_string, (void), ())
EXPORT(const char *, opus_strerror, (int code), (code))
EXPORT(int, opus_encoder_get_size, (int channels), (channels)) /* PyOgg looks for it */
EXPORT(int, opus_decoder_get_size, (int channels), (channels))
EXPORT(void *, opus_decoder_create, (int32_t rate, int channels, int *error), (rate, channels, error))
EXPORT(void, opus_decoder_destroy, (void *st), (st))
EXPORT(int, opus_packet_parse,
       (bytes p, int32_t n, unsigned char *toc, bytes *frames, int16_t *sizes, int *offset),
       (p, n, toc, frames, sizes, offset))
EXPORT(int, opus_packet_get_nb_samples, (bytes p, int32_t n, int32_t rate), (p, n, rate))

EXPORTED int opus_decoder_ctl(void *state, int request, ...)
{
    REAL(int, opus_decoder_ctl, (void *, int, ...));
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return real(state, request, argument);
}

/* ---- the faults ---------------------------------------------------------------------------- */

struct call {
    char *pcm;
    size_t buffer_bytes; /* of one channel; twice that is at least its end */
};

static volatile int never;

static int fault_segv(const struct call *call)
{
    (void)call;
    *(volatile char *)(uintptr_t)0x208F210000 = 1; /* the incident's address */
    return FORWARD;
}

static int fault_overrun(const struct call *call)
{
    for (size_t i = 0; i < 2 * call->buffer_bytes + 4096; i++)
        ((volatile char *)call->pcm)[i] = 0x55;
    return FORWARD;
}

static int fault_ill(const struct call *call)
{
    (void)call;
    __asm__ volatile("ud2");
    return FORWARD;
}

static int fault_fpe(const struct call *call)
{
    (void)call;
    volatile int zero = 0;
    volatile int quotient = 7 / zero;
    (void)quotient;
    return FORWARD;
}

/* Raises what Windows raises where a stack ends. At a real end Wine ends the thread alone, so that a
 * worker would hang instead. */
static int fault_stack(const struct call *call)
{
    (void)call;
    RaiseException(EXCEPTION_STACK_OVERFLOW, 0, 0, NULL);
    return FORWARD;
}

static int fault_abort(const struct call *call)
{
    (void)call;
    abort();
}

/* __fastfail(FAST_FAIL_FATAL_APP_EXIT): what a stack cookie, or the C runtime's abort(), does. */
static int fault_failfast(const struct call *call)
{
    (void)call;
    __asm__ volatile("int $0x29" : : "c"(7));
    return FORWARD;
}

/* Ends as Windows ends a process whose heap is corrupted: with that status, past every handler.
 * Wine's own heap notices a double free, but does not end the process for it. */
static int fault_heap(const struct call *call)
{
    (void)call;
    TerminateProcess(GetCurrentProcess(), (UINT)CORRUPTED);
    return FORWARD;
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
    Sleep(3600 * 1000);
    return FORWARD;
}

static int fault_exit(const struct call *call)
{
    (void)call;
    _exit(5);
}

static const struct {
    const char *name;
    int (*run)(const struct call *);
} faults[] = {
    {"segv", fault_segv},   {"overrun", fault_overrun},   {"ill", fault_ill},
    {"fpe", fault_fpe},     {"stack", fault_stack},       {"abort", fault_abort},
    {"heap", fault_heap},   {"failfast", fault_failfast}, {"loop", fault_loop},
    {"sleep", fault_sleep}, {"exit", fault_exit},
};

struct job {
    int (*run)(const struct call *);
    const struct call *call;
};

static DWORD WINAPI on_thread(void *argument)
{
    struct job *job = argument;
    job->run(job->call);
    return 0;
}

static int run(const char *name, const struct call *call)
{
    int aside = strncmp(name, THREAD, strlen(THREAD)) == 0;
    if (aside)
        name += strlen(THREAD);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        if (strcmp(faults[i].name, name) != 0)
            continue;
        if (!aside)
            return faults[i].run(call);
        struct job job = {faults[i].run, call};
        HANDLE thread = CreateThread(NULL, 0, on_thread, &job, 0, NULL);
        WaitForSingleObject(thread, INFINITE);
        CloseHandle(thread);
        return FORWARD;
    }
    broken_test(name, "no such fault");
    return FORWARD;
}

/* ---- which packet faults ------------------------------------------------------------------- */

static int read_name(bytes packet, int32_t length, char name[NAME_BYTES])
{
    size_t mark = strlen(MARK);
    for (int32_t at = 0; packet && at + (int32_t)mark < length; at++) {
        if (memcmp(packet + at, MARK, mark) == 0) {
            size_t left = (size_t)length - (size_t)at - mark;
            strncpy(name, (const char *)packet + at + mark, left < NAME_BYTES ? left : NAME_BYTES);
            name[NAME_BYTES - 1] = '\0';
            return 1;
        }
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

static int first_time(const char *name, bytes packet, int32_t length)
{
    const wchar_t *tokens = _wgetenv(L"OPUSPOOL_FAULT_TOKENS");
    if (!tokens)
        broken_test("OPUSPOOL_FAULT_TOKENS", "not set, but a packet faults once");
    wchar_t path[MAX_PATH];
    swprintf(path, MAX_PATH, L"%ls\\%hs-%016llx", tokens, name,
             (unsigned long long)digest(packet, length));
    HANDLE token = CreateFileW(path, GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
    if (token == INVALID_HANDLE_VALUE && GetLastError() != ERROR_FILE_EXISTS)
        broken_test("OPUSPOOL_FAULT_TOKENS", "no token can be made there");
    if (token != INVALID_HANDLE_VALUE)
        CloseHandle(token);
    return token != INVALID_HANDLE_VALUE;
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
    char name[NAME_BYTES] = {0};
    if (!read_name(packet, length, name))
        return FORWARD;
    if (strip_once(name) && !first_time(name, packet, length))
        return FORWARD;
    return run(name, call);
}

#define EXPORT_DECODE(name, sample) \
    EXPORTED int name(void *st, bytes packet, int32_t length, sample *pcm, int frame_size, int fec) \
    { \
        REAL(int, name, (void *, bytes, int32_t, sample *, int, int)); \
        struct call call = {(char *)pcm, sizeof *pcm * (size_t)frame_size}; \
        int result = fault_of(packet, length, &call); \
        return result == FORWARD ? real(st, packet, length, pcm, frame_size, fec) : result; \
    }

EXPORT_DECODE(opus_decode, int16_t)
EXPORT_DECODE(opus_decode_float, float)
