/* Runs one compiled program outside Python: everything that it needs comes in one file.
 *
 * The file is an array of 64-bit numbers, then bytes:
 *   code bytes, offsets of whet_start, whet_worker and whet_stop, context bytes, threads,
 *   regions, words, pointers;
 *   per region: bytes to reserve, bytes given, whether it is written to the output;
 *   per word: offset in the context, value;
 *   per pointer: offset in the context, region, offset in the region;
 *   the code, then the bytes given of each region.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SYSCALL = 32, CLOCK = 40, GUARD = 4096 };

static char *context;
static void (*worker)(char *, int64_t);

static int64_t number(FILE *file) {
    int64_t value;
    if (fread(&value, 8, 1, file) != 1) exit(2);
    return value;
}

static void fill(FILE *file, char *at, size_t size) {
    if (size && fread(at, 1, size, file) != size) exit(3);
}

/* Memory that ends where the region ends, before a page that nobody may touch. */
static char *reserve(size_t size) {
    size_t room = (size + 63) / 64 * 64, pages = (room + GUARD - 1) / GUARD * GUARD;
    char *base = mmap(0, pages + 2 * GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) exit(4);
    mprotect(base, GUARD, PROT_NONE);
    mprotect(base + GUARD + pages, GUARD, PROT_NONE);
    memset(base + GUARD, 0xA5, pages);
    return base + GUARD + pages - room;
}

static void *help(void *thread) {
    worker(context, (intptr_t)thread);
    return 0;
}

int main(int argc, char **argv) {
    FILE *file = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    if (argc < 3 || !file || !out) return 1;
    int64_t code_size = number(file), start = number(file), work = number(file), stop = number(file);
    int64_t context_size = number(file), threads = number(file);
    int64_t regions = number(file), words = number(file), pointers = number(file);
    int64_t shape[regions + 1][3];
    char *base[regions + 1];
    for (int64_t k = 0; k < regions; k++) {
        for (int field = 0; field < 3; field++) shape[k][field] = number(file);
        base[k] = reserve(shape[k][0]);
    }
    context = reserve(context_size);
    memset(context, 0, context_size);
    for (int64_t k = 0; k < words; k++) {
        int64_t at = number(file);
        *(int64_t *)(context + at) = number(file);
    }
    for (int64_t k = 0; k < pointers; k++) {
        int64_t at = number(file), region = number(file);
        *(char **)(context + at) = base[region] + number(file);
    }
    *(void **)(context + SYSCALL) = (void *)syscall;
    *(void **)(context + CLOCK) = (void *)clock_gettime;
    char *code = mmap(0, code_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) return 4;
    fill(file, code, code_size);
    if (mprotect(code, code_size, PROT_READ | PROT_EXEC)) return 5;
    __builtin___clear_cache(code, code + code_size);
    for (int64_t k = 0; k < regions; k++) fill(file, base[k], shape[k][1]);
    worker = (void (*)(char *, int64_t))(code + work);
    pthread_t helpers[threads];
    for (int64_t k = 1; k < threads; k++)
        if (pthread_create(&helpers[k], 0, help, (void *)(intptr_t)k)) return 6;
    for (int run = 0; run < (threads > 1 ? 3 : 1); run++) ((void (*)(char *))(code + start))(context);
    if (threads > 1) ((void (*)(char *))(code + stop))(context);
    for (int64_t k = 1; k < threads; k++) pthread_join(helpers[k], 0);
    for (int64_t k = 0; k < regions; k++)
        if (shape[k][2] && fwrite(base[k], 1, shape[k][0], out) != (size_t)shape[k][0]) return 7;
    return fclose(out) ? 8 : 0;
}
