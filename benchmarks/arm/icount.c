/* qemu plugin: how often each translated block of a file was executed.
 *
 * Debian ships no qemu-plugin.h, so the few functions used are declared here as qemu's
 * documentation of its plugin interface gives them. They are the same in every version of the
 * interface up to now; only the number in qemu_plugin_version differs (API_VERSION).
 *
 * Arguments: out=FILE, lib=TEXT (count only in mapped files whose path contains TEXT).
 * Output: one line a block: executions, number of instructions, offset in the file (hexadecimal),
 * path of the file. Offsets do not depend on where the file was mapped.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef API_VERSION
#define API_VERSION 1
#endif
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
typedef void (*translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*executed)(unsigned cpu, void *data);
typedef void (*at_exit)(plugin_id, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed, int flags, void *);
void qemu_plugin_register_atexit_cb(plugin_id, at_exit, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = API_VERSION;

/* Part of a file in the address space of the program. qemu user emulation maps the files of the
 * program at the program's own addresses (-B 0), so the maps of this process tell. */
typedef struct Region {
    uint64_t low, high, offset;
    char *path; /* NULL: not to be counted */
    struct Region *next;
} Region;

typedef struct Block {
    uint64_t offset, executions;
    size_t instructions;
    const Region *region;
    struct Block *next;
} Block;

#define BUCKETS (1u << 16)
static Block *blocks[BUCKETS];
static Region *regions;
static const char *out_path, *wanted = "";

static Region *region_of(uint64_t address)
{
    for (Region *region = regions; region; region = region->next)
        if (address >= region->low && address < region->high)
            return region;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4352], path[4097];
    Region *found = NULL;
    while (maps && !found && fgets(line, sizeof line, maps)) {
        unsigned long low, high, offset;
        path[0] = 0;
        if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %4096[^\n]", &low, &high, &offset, path) < 3)
            continue;
        if (address < low || address >= high)
            continue;
        found = calloc(1, sizeof *found);
        found->low = low;
        found->high = high;
        found->offset = offset;
        if (path[0] == '/' && strstr(path, wanted))
            found->path = strdup(path);
        found->next = regions;
        regions = found;
    }
    if (maps)
        fclose(maps);
    return found;
}

static void count(unsigned cpu, void *data)
{
    (void)cpu;
    __atomic_fetch_add(&((Block *)data)->executions, 1, __ATOMIC_RELAXED);
}

/* qemu holds its translation lock here: no other thread is in this function. */
static void on_translation(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    size_t instructions = qemu_plugin_tb_n_insns(tb);
    const Region *region = region_of(address);
    if (!region || !region->path)
        return;
    uint64_t offset = address - region->low + region->offset;
    Block **bucket = &blocks[(offset >> 2) % BUCKETS];
    Block *block = *bucket;
    while (block && (block->offset != offset || block->instructions != instructions ||
                     strcmp(block->region->path, region->path)))
        block = block->next;
    if (!block) {
        block = calloc(1, sizeof *block);
        block->offset = offset;
        block->instructions = instructions;
        block->region = region;
        block->next = *bucket;
        *bucket = block;
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, count, 0, block);
}

static void on_exit_(plugin_id id, void *data)
{
    (void)id, (void)data;
    FILE *out = fopen(out_path, "w");
    if (!out) {
        perror(out_path);
        return;
    }
    for (unsigned i = 0; i < BUCKETS; i++)
        for (Block *block = blocks[i]; block; block = block->next)
            if (block->executions)
                fprintf(out, "%llu %zu %llx %s\n", (unsigned long long)block->executions,
                        block->instructions, (unsigned long long)block->offset,
                        block->region->path);
    fclose(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out_path = strdup(argv[i] + 4);
        else if (!strncmp(argv[i], "lib=", 4))
            wanted = strdup(argv[i] + 4);
    }
    if (!out_path) {
        fputs("icount: out=FILE is missing\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit_, NULL);
    return 0;
}
