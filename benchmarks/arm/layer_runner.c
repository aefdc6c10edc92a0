/* Calls one compiled kernel a number of times, with nothing of TVM but the kernel's library.
 *
 *     layer_runner LIBRARY ARGUMENTS OUTPUT CALLS
 *
 * ARGUMENTS: int64 numbers, little endian. Number of arrays; for each: DLPack type code, bits,
 * dimensions, shape, bytes, then the data. Then the number of arguments of `prepare` (0: no such
 * function) and their indices, the same for `layer`. The last argument of `layer` is written to
 * OUTPUT after the last call.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The layouts of DLPack and of TVM-FFI's stable C interface. */
typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;
typedef struct {
    int32_t type, padding;
    union { int64_t integer; void *pointer; } value;
} Any;
typedef int (*Function)(void *self, const Any *args, int32_t count, Any *result);
enum { TENSOR_POINTER = 7 };

typedef struct { void *sync; int32_t tasks; } Group;

static int parallel(int (*task)(int, Group *, void *), void *data, int tasks)
{
    (void)tasks;
    Group group = {NULL, 1};
    return task(0, &group, data);
}

static void *allocate(int type, int id, uint64_t bytes, int code, int bits)
{
    (void)type, (void)id, (void)code, (void)bits;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int release(int type, int id, void *memory)
{
    (void)type, (void)id;
    free(memory);
    return 0;
}

/* The library wants it when an argument check fails. */
__attribute__((visibility("default"))) void
TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count)
{
    fprintf(stderr, "%s: ", kind);
    for (int i = 0; i < count; i++)
        fputs(parts[i] ? parts[i] : "", stderr);
    fputs("\n", stderr);
}

static void fail(const char *what)
{
    fprintf(stderr, "layer_runner: %s\n", what);
    exit(1);
}

static int64_t number(FILE *file)
{
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1)
        fail("ARGUMENTS ends early");
    return value;
}

static int read_call(FILE *file, DLTensor *tensors, Any **args)
{
    int count = (int)number(file);
    *args = calloc(count + 1, sizeof **args);
    for (int i = 0; i < count; i++) {
        (*args)[i].type = TENSOR_POINTER;
        (*args)[i].value.pointer = &tensors[number(file)];
    }
    return count;
}

static void call(void *library, const char *name, const Any *args, int count, long times)
{
    Function function = (Function)dlsym(library, name);
    if (!function)
        fail(dlerror());
    while (times-- > 0) {
        Any result = {0};
        if (function(NULL, args, count, &result))
            fail("the kernel reports an error");
    }
}

static void provide(void *library, const char *name, void *value)
{
    void **slot = dlsym(library, name);
    if (slot)
        *slot = value;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        fail("usage: layer_runner LIBRARY ARGUMENTS OUTPUT CALLS");
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library)
        fail(dlerror());
    provide(library, "__TVMBackendParallelLaunch", (void *)parallel);
    provide(library, "__TVMBackendAllocWorkspace", (void *)allocate);
    provide(library, "__TVMBackendFreeWorkspace", (void *)release);

    FILE *file = fopen(argv[2], "rb");
    if (!file)
        fail("cannot read ARGUMENTS");
    int64_t arrays = number(file), bytes = 0;
    DLTensor *tensors = calloc(arrays, sizeof *tensors);
    for (int64_t i = 0; i < arrays; i++) {
        DLTensor *tensor = &tensors[i];
        tensor->device_type = 1; /* CPU */
        tensor->code = number(file);
        tensor->bits = number(file);
        tensor->lanes = 1;
        tensor->dimensions = number(file);
        tensor->shape = calloc(tensor->dimensions + 1, sizeof(int64_t));
        for (int d = 0; d < tensor->dimensions; d++)
            tensor->shape[d] = number(file);
        bytes = number(file);
        tensor->data = allocate(0, 0, bytes + 64, 0, 0);
        if (fread(tensor->data, 1, bytes, file) != (size_t)bytes)
            fail("ARGUMENTS ends early");
    }
    Any *args;
    int count = read_call(file, tensors, &args);
    if (count)
        call(library, "__tvm_ffi_prepare", args, count, 1);
    count = read_call(file, tensors, &args);
    fclose(file);
    call(library, "__tvm_ffi_layer", args, count, atol(argv[4]));

    DLTensor *last = args[count - 1].value.pointer;
    bytes = last->bits / 8;
    for (int d = 0; d < last->dimensions; d++)
        bytes *= last->shape[d];
    file = fopen(argv[3], "wb");
    if (!file || fwrite(last->data, 1, bytes, file) != (size_t)bytes || fclose(file))
        fail("cannot write OUTPUT");
    return 0;
}
