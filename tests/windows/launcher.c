/* Does what `python.exe` of a virtual environment does on Windows: starts the real Python (path in
 * REAL_PYTHON) with its own command line and handles, and waits for it. The embeddable Python of
 * the lane has no such launcher of its own.
 */
#include <stdlib.h>
#include <wchar.h>
#include <windows.h>

int wmain(void)
{
    wchar_t own[MAX_PATH * 4];
    GetModuleFileNameW(NULL, own, sizeof own / sizeof *own);
    SetEnvironmentVariableW(L"__PYVENV_LAUNCHER__", own);
    STARTUPINFOW start = {.cb = sizeof start};
    PROCESS_INFORMATION process;
    GetStartupInfoW(&start);
    if (!CreateProcessW(_wgetenv(L"REAL_PYTHON"), GetCommandLineW(), NULL, NULL, TRUE, 0, NULL, NULL,
                        &start, &process))
        return 101;
    DWORD code = 102;
    WaitForSingleObject(process.hProcess, INFINITE);
    GetExitCodeProcess(process.hProcess, &code);
    return (int)code;
}
