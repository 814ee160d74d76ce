/* A libopus that faults for real, for tests, on Windows; what faults and how often: ../faultopus.h.
 *
 * It loads the real opus.dll (path in OPUSPOOL_FAULT_REAL) and forwards what opuspool's worker
 * calls. ctypes catches what is raised on its own thread; "thread-" before a name raises it on
 * another one, where nothing catches it and Windows ends the process with the code.
 */
#include <io.h>
#include <stdio.h>
#include <string.h>
#include <windows.h>

#define EXPORTED __declspec(dllexport)
#include "../faultopus.h"

#define THREAD "thread-"
enum { CORRUPTED = 0xC0000374 };

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

EXPORT(void, opus_decoder_destroy, (void *st), (st))

/* ---- the faults ---------------------------------------------------------------------------- */

static volatile int never;

static int fault_overrun(const struct call *call)
{
    for (size_t i = 0; i < 2 * call->sample_bytes * (size_t)call->frame_size + 4096; i++)
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

/* The same as an exception that nothing catches, which Windows makes of no other. */
static int fault_corrupt(const struct call *call)
{
    (void)call;
    RaiseException((DWORD)CORRUPTED, EXCEPTION_NONCONTINUABLE, 0, NULL);
    return FORWARD;
}

/* The incident's own call; through a pointer, so that it is one. */
static int fault_memset(const struct call *call)
{
    void *(*volatile set)(void *, int, size_t) = memset;
    (void)call;
    set((void *)(uintptr_t)0x208F210000, 1, 10);
    return FORWARD;
}

static int fault_slow(const struct call *call)
{
    (void)call;
    Sleep(50);
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
    {"sleep", fault_sleep}, {"exit", fault_exit},         {"corrupt", fault_corrupt},
    {"slow", fault_slow},   {"memset", fault_memset},
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

static int run_fault(const char *name, const struct call *call)
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

static void before_decode(void)
{
}
