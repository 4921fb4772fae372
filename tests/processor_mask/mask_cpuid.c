/* A preloaded library that makes this processor look like an older one.
 *
 * Linux lets a process have its CPUID instruction trapped (arch_prctl ARCH_SET_CPUID, on processors
 * that list cpuid_fault in /proc/cpuinfo). The trap is answered here with the real values, minus
 * every instruction set that is newer than AVX2 (MASK_KEEP=avx512 keeps them), and with AMD's name
 * where MASK_VENDOR=amd is set. MASK_HIDE=avx2 hides AVX2, FMA, F16C, BMI1 and BMI2 as well.
 * Libraries then choose the code that they choose on such a processor, at full speed.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static int as_amd, keep_avx512, hide_avx2;

static long trap_cpuid(int on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, (unsigned long)!on); }

static void answer(uint32_t leaf, uint32_t sub, uint32_t r[4]) {
    enum { A, B, C, D };
    if (keep_avx512) {
    } else if (leaf == 7 && sub == 0) { /* AVX-512 of all kinds, AMX, and the subleaves behind */
        r[A] = 0;
        r[B] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        r[C] &= ~(BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14));
        r[D] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 || leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
        memset(r, 0, 4 * sizeof *r);
    }
    if (hide_avx2 && leaf == 7) r[B] &= ~(BIT(3) | BIT(5) | BIT(8));
    if (hide_avx2 && leaf == 1) r[C] &= ~(BIT(12) | BIT(29));
    if (as_amd && (leaf == 0 || leaf == 0x80000000u)) {
        memcpy(&r[B], "Auth", 4);
        memcpy(&r[D], "enti", 4);
        memcpy(&r[C], "cAMD", 4);
    }
    if (as_amd && leaf == 1) r[A] = 0x00870f10; /* Zen 2 */
}

static void on_trap(int number, siginfo_t *info, void *context) {
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)g[REG_RIP];
    (void)number, (void)info;
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) { /* a true fault: let it kill us */
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    uint32_t leaf = (uint32_t)g[REG_RAX], sub = (uint32_t)g[REG_RCX], r[4];
    trap_cpuid(0);
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
    trap_cpuid(1);
    answer(leaf, sub, r);
    g[REG_RAX] = r[0], g[REG_RBX] = r[1], g[REG_RCX] = r[2], g[REG_RDX] = r[3];
    g[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char *vendor = getenv("MASK_VENDOR");
    as_amd = vendor != NULL && strcmp(vendor, "amd") == 0;
    keep_avx512 = getenv("MASK_KEEP") != NULL;
    hide_avx2 = getenv("MASK_HIDE") != NULL;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    if (trap_cpuid(1) != 0) _exit(99);
}
