/* The runner's calls of TVM: the functions of TVM-FFI, the runtime, and the one model. */
#ifndef RUNNER_MODEL_H
#define RUNNER_MODEL_H
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

typedef struct {
  const char* name;
  const char* descr; /* element type as .npy files spell it, for example "<f4" */
  DLDataType dtype;
  int ndim;
  int64_t shape[8];
} Spec;

#include "model.h" /* written by the export */

enum { INPUT_COUNT = sizeof(INPUTS) / sizeof(Spec), OUTPUT_COUNT = sizeof(OUTPUTS) / sizeof(Spec) };
enum { ALIGNMENT = 64, CPU_DEVICE = 1, POOLED_MEMORY = 2 };

/* Exit codes: 1 failed, 2 wrong arguments or files. */
static void fail(int code, const char* format, ...) {
  va_list list;
  va_start(list, format);
  fputs("run: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  exit(code);
}

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
  if (!HAS_PREPARE) return arguments;
  TVMFFIAny made = call("prepare", method(model, "prepare"), NULL, 0);
  int more = (int)call("prepare", global("ffi.ArraySize"), &made, 1).v_int64;
  arguments = realloc(arguments, (*count + more) * sizeof(TVMFFIAny));
  for (int i = 0; i < more; ++i) arguments[(*count)++] = item(made, i);
  release(made);
  return arguments;
}
#endif
