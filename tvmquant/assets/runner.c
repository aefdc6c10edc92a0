/* Runs an exported model on a device that has no Python: see `./run --help`.
 *
 * Plain C on the C interface of TVM-FFI. `model.h`, written by the export, describes the one model
 * that this program is for. By default the runtime libraries and model.so are loaded from the
 * folder of the program; with TVMQUANT_STATIC the model is part of the program. */
#define _GNU_SOURCE
#include <sys/auxv.h>
#include <time.h>

#include "runner_npy.h"

enum { WARMUP = 5 };

static double now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int ascending(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

/* Largest resident size so far. (That of getrusage may be the one of the process that started us.) */
static double peak_megabytes(void) {
  char line[256];
  double kilobytes = 0;
  FILE* file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof(line), file)) {
    if (sscanf(line, "VmHWM: %lf kB", &kilobytes) == 1) break;
  }
  if (file) fclose(file);
  return kilobytes / 1024;
}

static void bench(TVMFFIAny run, TVMFFIAny* arguments, int count, int repeats, double load_ms) {
  double* times = malloc(repeats * sizeof(double));
  for (int i = -WARMUP; i < repeats; ++i) {
    double start = now_ms();
    release(call("main", run, arguments, count));
    if (i >= 0) times[i] = now_ms() - start;
  }
  qsort(times, repeats, sizeof(double), ascending);
  printf("%s: median %.3f ms, min %.3f, max %.3f (%d runs, %s threads, load %.0f ms, "
         "peak memory %.1f MB)\n",
         MODEL_NAME, times[repeats / 2], times[0], times[repeats - 1], repeats,
         getenv("TVM_NUM_THREADS"), load_ms, peak_megabytes());
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
  const char *files[INPUT_COUNT + 1] = {0}, *targets[OUTPUT_COUNT] = {0};
  char threads[24];
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
      if (output_count == OUTPUT_COUNT) fail(2, "-o is given too often: %d outputs", OUTPUT_COUNT);
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
    fail(2, repeats ? "--bench writes nothing: leave -o away" : "give -o for each of %d outputs",
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
