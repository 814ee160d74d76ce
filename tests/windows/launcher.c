/* Does what `python.exe` of a virtual environment does on Windows: starts the real Python (path in
 * REAL_PYTHON) with its own command line and handles, in a job that ends with the launcher and that
 * Python's children leave, and waits for it. The embeddable Python of the lane has no such launcher
 * of its own.
 */
#include <stdlib.h>
#include <wchar.h>
#include <windows.h>

static HANDLE job_of_child(void)
{
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    limits.BasicLimitInformation.LimitFlags =
        JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
    HANDLE job = CreateJobObjectW(NULL, NULL);
    if (job && !SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits))
        return NULL;
    return job;
}

int wmain(void)
{
    wchar_t own[MAX_PATH * 4];
    GetModuleFileNameW(NULL, own, sizeof own / sizeof *own);
    SetEnvironmentVariableW(L"__PYVENV_LAUNCHER__", own);
    STARTUPINFOW start = {.cb = sizeof start};
    PROCESS_INFORMATION process;
    HANDLE job = job_of_child();
    GetStartupInfoW(&start);
    if (!job || !CreateProcessW(_wgetenv(L"REAL_PYTHON"), GetCommandLineW(), NULL, NULL, TRUE, 0, NULL,
                                NULL, &start, &process))
        return 101;
    if (!AssignProcessToJobObject(job, process.hProcess))
        return 103;
    DWORD code = 102;
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    return (int)code;
}
