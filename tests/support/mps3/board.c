/* Arm's board MPS3 AN547 (Cortex-M55) under QEMU: runs the model on every example of input.bin and
   writes output.bin, both through semihosting, and says the ticks of the last run. INPUTS, OUTPUTS
   and OUTPUT are to be defined: how many numbers it reads and gives, and the type of the latter. */

#include <stdint.h>

#include "model.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

enum { OPEN = 1, CLOSE = 2, WRITE0 = 4, WRITE = 5, READ = 6, EXIT = 0x18 };
enum { READ_BYTES = 1, WRITE_BYTES = 5 };

extern uint32_t stack_top, bss_start, bss_end;

static uintptr_t host(uintptr_t operation, const void *arguments)
{
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uintptr_t open(const char *name, uintptr_t length, uintptr_t mode)
{
    uintptr_t arguments[] = {(uintptr_t)name, mode, length};
    return host(OPEN, arguments);
}

static uintptr_t transfer(uintptr_t operation, uintptr_t file, void *bytes, uintptr_t count)
{
    uintptr_t arguments[] = {file, (uintptr_t)bytes, count};
    return host(operation, arguments); /* the bytes that are left */
}

static void say(uint32_t number)
{
    char text[12], *at = text + 11;
    *at = 0;
    *--at = '\n';
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    host(WRITE0, at);
}

static void run(void)
{
    static float x[INPUTS];
    static OUTPUT y[OUTPUTS];
    uintptr_t from = open("input.bin", 9, READ_BYTES);
    uintptr_t to = open("output.bin", 10, WRITE_BYTES);
    uint32_t ticks = 0;
    while (transfer(READ, from, x, sizeof x) == 0) {
        REGISTER(0xE000E018) = 0;
        if (model_run(x, y))
            break;
        ticks = 0xFFFFFF - REGISTER(0xE000E018);
        transfer(WRITE, to, y, sizeof y);
    }
    host(CLOSE, &to);
    say(ticks);
    host(EXIT, (void *)0x20026); /* the application has ended */
}

void reset(void)
{
    REGISTER(0xE000ED88) |= 0xF << 20; /* the floating-point and vector unit */
    __asm__ volatile("dsb\n isb");
    for (uint32_t *word = &bss_start; word < &bss_end; word++)
        *word = 0;
    REGISTER(0xE000E014) = 0xFFFFFF; /* SysTick, from the processor's clock, of 32 MHz */
    REGISTER(0xE000E010) = 5;
    run();
}

static void fault(void)
{
    host(WRITE0, "fault\n");
    host(EXIT, (void *)0x20023);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, reset, fault, fault, fault, fault, fault, fault,
};
