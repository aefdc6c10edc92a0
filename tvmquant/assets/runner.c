/* Runs an exported model on a device that has no Python: see `./run --help`.
 *
 * Plain C on the C interface of TVM-FFI. `model.h`, written by the export, describes the one model
 * that this program is for. By default the runtime libraries and model.so are loaded from the
 * folder of the program; with TVMQUANT_STATIC the model is part of the program. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

typedef struct {
  const char* name;
  const char* descr; /* element type as .npy files spell it, for example "<f4" */
  DLDataType dtype;
  int ndim;
  int64_t shape[8];
} Spec;

#include "model.h"

enum { INPUT_COUNT = sizeof(INPUTS) / sizeof(Spec), OUTPUT_COUNT = sizeof(OUTPUTS) / sizeof(Spec) };
enum { WARMUP = 5, ALIGNMENT = 64, CPU_DEVICE = 1, POOLED_MEMORY = 2 };

static void fail(int code, const char* format, ...) {
  va_list list;
  va_start(list, format);
  fputs("run: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  exit(code);
}

/* ---- TVM-FFI ---------------------------------------------------------------------------------*/

#define FUNCTIONS(X)          \
  X(TVMFFIFunctionGetGlobal)  \
  X(TVMFFIFunctionCall)       \
  X(TVMFFIErrorMoveFromRaised) \
  X(TVMFFITensorFromDLPack)   \
  X(TVMFFIObjectDecRef)

static struct {
#define DECLARE(name) __typeof__(&name) name;
  FUNCTIONS(DECLARE)
} ffi;

static char folder[4096];

#ifdef TVMQUANT_STATIC
static void load_runtime(void) {
#define LINKED(name) ffi.name = name;
  FUNCTIONS(LINKED)
}
#else
static void* load_library(const char* name) {
  char path[sizeof(folder) + 64];
  snprintf(path, sizeof(path), "%s/%s", folder, name);
  /* Without its own copy of the runtime the system's is used. */
  void* library = dlopen(access(path, R_OK) == 0 ? path : name, RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL) fail(1, "cannot load %s beside this program: %s", name, dlerror());
  return library;
}

static void load_runtime(void) {
  void* library = load_library("libtvm_ffi.so");
  load_library("libtvm_runtime.so");
#define FIND(name)                               \
  ffi.name = (__typeof__(&name))dlsym(library, #name); \
  if (ffi.name == NULL) fail(1, "libtvm_ffi.so has no %s: export the model again", #name);
  FUNCTIONS(FIND)
}
#endif

static TVMFFIAny of_int(int64_t value) {
  TVMFFIAny any = {.type_index = kTVMFFIInt, .v_int64 = value};
  return any;
}

static TVMFFIAny of_text(const char* text) {
  TVMFFIAny any = {.type_index = kTVMFFIRawStr, .v_c_str = text};
  return any;
}

static void release(TVMFFIAny value) {
  if (value.type_index >= kTVMFFIStaticObjectBegin) ffi.TVMFFIObjectDecRef(value.v_obj);
}

static void raise_error(const char* what) {
  TVMFFIObjectHandle error = NULL;
  ffi.TVMFFIErrorMoveFromRaised(&error);
  if (error == NULL) fail(1, "%s failed", what);
  TVMFFIErrorCell* cell = (TVMFFIErrorCell*)((char*)error + sizeof(TVMFFIObject));
  fail(1, "%s: %.*s", what, (int)cell->message.size, cell->message.data);
}

static TVMFFIAny call(const char* what, TVMFFIAny function, TVMFFIAny* arguments, int count) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  if (ffi.TVMFFIFunctionCall(function.v_obj, arguments, count, &result)) raise_error(what);
  return result;
}

static TVMFFIAny global(const char* name) {
  TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIAny function = {.type_index = kTVMFFIFunction};
  TVMFFIObjectHandle found = NULL;
  if (ffi.TVMFFIFunctionGetGlobal(&key, &found) || found == NULL) {
    fail(1, "the runtime has no %s: export the model again", name);
  }
  function.v_obj = found;
  return function;
}

static TVMFFIAny method(TVMFFIAny module, const char* name) {
  TVMFFIAny arguments[] = {module, of_text(name), {.type_index = kTVMFFIBool, .v_int64 = 1}};
  TVMFFIAny function = call(name, global("ffi.ModuleGetFunction"), arguments, 3);
  if (function.type_index != kTVMFFIFunction) fail(1, "the model has no function %s", name);
  return function;
}

/* The program of the model: a module whose `main` runs it. */
static TVMFFIAny load_model(void) {
#ifdef TVMQUANT_STATIC
  TVMFFIAny library = call("the model", global("ffi.SystemLib"), NULL, 0);
#else
  char path[sizeof(folder) + 16];
  snprintf(path, sizeof(path), "%s/model.so", folder);
  TVMFFIAny name = of_text(path);
  TVMFFIAny library = call("cannot load model.so", global("ffi.ModuleLoadFromFile"), &name, 1);
#endif
  TVMFFIAny machine = call("the model", method(library, "vm_load_executable"), NULL, 0);
  TVMFFIAny arguments[] = {of_int(CPU_DEVICE), of_int(0), of_int(POOLED_MEMORY)};
  call("the model", method(machine, "vm_initialization"), arguments, 3);
  return machine;
}

static TVMFFIAny item(TVMFFIAny array, int index) {
  TVMFFIAny arguments[] = {array, of_int(index)};
  return call("an output", global("ffi.ArrayGetItem"), arguments, 2);
}

/* Constants that kernels hold unpacked in memory: further arguments of `main`. */
static TVMFFIAny* add_expanded(TVMFFIAny model, TVMFFIAny* arguments, int* count) {
#if HAS_PREPARE
  TVMFFIAny made = call("prepare", method(model, "prepare"), NULL, 0);
  int more = (int)call("prepare", global("ffi.ArraySize"), &made, 1).v_int64;
  arguments = realloc(arguments, (*count + more) * sizeof(TVMFFIAny));
  for (int i = 0; i < more; ++i) arguments[(*count)++] = item(made, i);
  release(made);
#endif
  return arguments;
}

/* ---- Tensors and .npy files ------------------------------------------------------------------*/

static int64_t element_count(const Spec* spec) {
  int64_t count = 1;
  for (int i = 0; i < spec->ndim; ++i) count *= spec->shape[i];
  return count;
}

static size_t byte_count(const Spec* spec) {
  return (size_t)element_count(spec) * ((spec->dtype.bits + 7) / 8);
}

/* A tensor of the model's input over memory that lives as long as the program. */
static TVMFFIAny tensor_over(const Spec* spec, void* data) {
  DLManagedTensor* managed = calloc(1, sizeof(DLManagedTensor));
  managed->dl_tensor.data = data;
  managed->dl_tensor.device = (DLDevice){kDLCPU, 0};
  managed->dl_tensor.ndim = spec->ndim;
  managed->dl_tensor.dtype = spec->dtype;
  managed->dl_tensor.shape = (int64_t*)spec->shape;
  TVMFFIAny tensor = {.type_index = kTVMFFITensor};
  TVMFFIObjectHandle made = NULL;
  if (ffi.TVMFFITensorFromDLPack(managed, ALIGNMENT, 0, &made)) raise_error(spec->name);
  tensor.v_obj = made;
  return tensor;
}

static void shape_text(const Spec* spec, char* text, size_t size) {
  size_t used = snprintf(text, size, "(");
  for (int i = 0; i < spec->ndim; ++i) {
    const char* comma = i + 1 < spec->ndim ? ", " : spec->ndim == 1 ? "," : "";
    used += snprintf(text + used, size - used, "%" PRId64 "%s", spec->shape[i], comma);
  }
  snprintf(text + used, size - used, ")");
}

/* Whether the text after `key` in the header of a .npy file begins with `wanted`. */
static int header_has(const char* header, const char* key, const char* wanted) {
  const char* at = strstr(header, key);
  if (at == NULL) return 0;
  at += strlen(key);
  while (*at == ':' || *at == ' ') ++at;
  return strncmp(at, wanted, strlen(wanted)) == 0;
}

static void read_npy(const char* path, const Spec* spec, void* data) {
  unsigned char start[12];
  char header[4096], shape[256], wanted[64];
  FILE* file = fopen(path, "rb");
  if (file == NULL) fail(2, "cannot read %s: %s", path, strerror(errno));
  if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0) {
    fail(2, "%s is not a .npy file", path);
  }
  size_t length = start[8] | start[9] << 8;
  if (start[6] > 1) {
    if (fread(start + 10, 1, 2, file) != 2) fail(2, "%s is cut off", path);
    length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
  }
  if (length >= sizeof(header)) fail(2, "%s has an unreasonably long header", path);
  if (fread(header, 1, length, file) != length) fail(2, "%s is cut off", path);
  header[length] = 0;
  shape_text(spec, shape, sizeof(shape));
  snprintf(wanted, sizeof(wanted), "'%s'", spec->descr);
  if (!header_has(header, "'descr'", wanted) || !header_has(header, "'shape'", shape) ||
      (spec->ndim > 1 && !header_has(header, "'fortran_order'", "False"))) {
    header[strcspn(header, "\n")] = 0;
    fail(2, "%s does not fit the input %s, which takes %s %s in C order; the file says %s", path,
         spec->name, spec->descr, shape, header);
  }
  if (fread(data, 1, byte_count(spec), file) != byte_count(spec)) fail(2, "%s is cut off", path);
  fclose(file);
}

static void write_npy(const char* path, const Spec* spec, TVMFFIAny tensor) {
  const DLTensor* values = (const DLTensor*)((char*)tensor.v_obj + sizeof(TVMFFIObject));
  char shape[256], header[512], temporary[4096];
  int64_t dense = 1;
  for (int i = spec->ndim - 1; i >= 0; --i) {
    if (values->strides && spec->shape[i] > 1 && values->strides[i] != dense) {
      fail(1, "output %s is not contiguous", spec->name);
    }
    dense *= spec->shape[i];
  }
  shape_text(spec, shape, sizeof(shape));
  int used = snprintf(header, sizeof(header), "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                      spec->descr, shape);
  while ((used + 11) % 64) header[used++] = ' ';
  header[used++] = '\n';
  unsigned char start[] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, used & 255, used >> 8};
  if ((size_t)snprintf(temporary, sizeof(temporary), "%s.partial", path) >= sizeof(temporary)) {
    fail(2, "the name %s is too long", path);
  }
  FILE* file = fopen(temporary, "wb");
  if (file == NULL) fail(2, "cannot write %s: %s", path, strerror(errno));
  int written = fwrite(start, 1, sizeof(start), file) == sizeof(start) &&
                fwrite(header, 1, used, file) == (size_t)used &&
                fwrite((char*)values->data + values->byte_offset, 1, byte_count(spec), file) ==
                    byte_count(spec);
  if (fclose(file) != 0 || !written || rename(temporary, path) != 0) {
    int reason = errno;
    remove(temporary);
    fail(1, "cannot write %s: %s", path, strerror(reason));
  }
}

/* Noise for --bench: the same on every run, floats in [-1, 1), integers 0 and 1. */
static void fill_noise(const Spec* spec, void* data) {
  uint32_t state = 1;
  int64_t count = element_count(spec);
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    int bytes = spec->dtype.bits / 8;
    if (spec->dtype.code == kDLFloat && bytes == 4) {
      ((float*)data)[i] = (int32_t)state / 2147483648.0f;
    } else if (spec->dtype.code == kDLFloat && bytes == 8) {
      ((double*)data)[i] = (int32_t)state / 2147483648.0;
    } else if (spec->dtype.code != kDLFloat) {
      memset((char*)data + i * bytes, 0, bytes);
      ((char*)data)[i * bytes] = state >> 31;
    }
  }
}

/* ---- The program -----------------------------------------------------------------------------*/

static double now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int ascending(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void bench(TVMFFIAny run, TVMFFIAny* arguments, int count, int repeats, double load_ms) {
  double* times = malloc(repeats * sizeof(double));
  for (int i = -WARMUP; i < repeats; ++i) {
    double start = now_ms();
    release(call("main", run, arguments, count));
    if (i >= 0) times[i] = now_ms() - start;
  }
  qsort(times, repeats, sizeof(double), ascending);
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("%s: median %.3f ms, min %.3f, max %.3f (%d runs, %s threads, load %.0f ms, "
         "peak memory %.1f MB)\n",
         MODEL_NAME, times[repeats / 2], times[0], times[repeats - 1], repeats,
         getenv("TVM_NUM_THREADS"), load_ms, usage.ru_maxrss / 1024.0);
}

static void print_info(void) {
  char shape[256];
  printf("%s, made for %s by tvmquant %s\n", MODEL_NAME, MODEL_TARGET, MODEL_VERSION);
  for (int i = 0; i < INPUT_COUNT + OUTPUT_COUNT; ++i) {
    const Spec* spec = i < INPUT_COUNT ? &INPUTS[i] : &OUTPUTS[i - INPUT_COUNT];
    shape_text(spec, shape, sizeof(shape));
    printf("%s %s: %s %s\n", i < INPUT_COUNT ? "input " : "output", spec->name, spec->descr, shape);
  }
}

static const char USAGE[] =
    "usage: run IN.npy... -o OUT.npy [-o OUT.npy...] [--threads N]   run the model once\n"
    "       run --bench N [IN.npy...] [--threads N]                  time N runs\n"
    "       run --info                                               list inputs and outputs\n";

static int number_of(const char* option, const char* text) {
  char* end = NULL;
  long value = text ? strtol(text, &end, 10) : 0;
  if (text == NULL || *end || value < 1 || value > 1000000) {
    fail(2, "%s takes a number from 1 on", option);
  }
  return (int)value;
}

static void check_processor(void) {
  for (size_t i = 0; i + 1 < sizeof(NEEDED) / sizeof(NEEDED[0]); ++i) {
    if ((getauxval(NEEDED[i].word) & NEEDED[i].mask) == 0) {
      fail(1, "this processor lacks %s: the model was compiled for %s", NEEDED[i].name,
           MODEL_TARGET);
    }
  }
}

int main(int argc, char** argv) {
  const char *files[INPUT_COUNT + 1], *targets[OUTPUT_COUNT];
  char threads[16];
  int input_count = 0, output_count = 0, repeats = 0;
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  snprintf(threads, sizeof(threads), "%ld", cores > 0 ? cores : 1);
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      fputs(USAGE, stdout);
      return 0;
    } else if (strcmp(argv[i], "--info") == 0) {
      print_info();
      return 0;
    } else if (strcmp(argv[i], "--bench") == 0) {
      repeats = number_of("--bench", argv[++i]);
    } else if (strcmp(argv[i], "--threads") == 0) {
      snprintf(threads, sizeof(threads), "%d", number_of("--threads", argv[++i]));
      setenv("TVM_NUM_THREADS", threads, 1);
    } else if (strcmp(argv[i], "-o") == 0) {
      if (argv[++i] == NULL) fail(2, "-o takes the name of a file");
      if (output_count == OUTPUT_COUNT) fail(2, "the model has %d outputs: -o is given too often", OUTPUT_COUNT);
      targets[output_count++] = argv[i];
    } else if (argv[i][0] == '-') {
      fail(2, "unknown option %s\n%s", argv[i], USAGE);
    } else if (input_count < INPUT_COUNT + 1) {
      files[input_count++] = argv[i];
    }
  }
  if (input_count != INPUT_COUNT && !(repeats && input_count == 0)) {
    fail(2, "the model takes %d input files, see --info\n%s", INPUT_COUNT, USAGE);
  }
  if (repeats ? output_count : output_count != OUTPUT_COUNT) {
    fail(2, repeats ? "--bench writes nothing: leave -o away" : "give -o once for each of %d outputs",
         OUTPUT_COUNT);
  }
  check_processor();
  setenv("TVM_NUM_THREADS", threads, 0); /* TVM reads it once; its own default is one thread */

  ssize_t length = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
  if (length < 0) fail(1, "cannot find the folder of this program: %s", strerror(errno));
  *strrchr(folder, '/') = 0;
  void* buffers[INPUT_COUNT];
  for (int i = 0; i < INPUT_COUNT; ++i) {
    size_t bytes = (byte_count(&INPUTS[i]) + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    buffers[i] = aligned_alloc(ALIGNMENT, bytes);
    if (buffers[i] == NULL) fail(1, "out of memory");
    if (input_count) read_npy(files[i], &INPUTS[i], buffers[i]);
    else fill_noise(&INPUTS[i], buffers[i]);
  }
  double start = now_ms();
  load_runtime();
  TVMFFIAny model = load_model();
  int count = INPUT_COUNT;
  TVMFFIAny* arguments = calloc(count, sizeof(TVMFFIAny));
  for (int i = 0; i < count; ++i) arguments[i] = tensor_over(&INPUTS[i], buffers[i]);
  arguments = add_expanded(model, arguments, &count);
  TVMFFIAny run = method(model, "main");
  if (repeats) {
    bench(run, arguments, count, repeats, now_ms() - start);
    return 0;
  }
  TVMFFIAny result = call("main", run, arguments, count);
  for (int i = 0; i < OUTPUT_COUNT; ++i) {
    TVMFFIAny tensor = result.type_index == kTVMFFITensor ? result : item(result, i);
    if (tensor.type_index != kTVMFFITensor) fail(1, "output %s is not a tensor", OUTPUTS[i].name);
    write_npy(targets[i], &OUTPUTS[i], tensor);
  }
  return 0;
}
