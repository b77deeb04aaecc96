/*
 * A PKCS#11 module for tests: passes everything on to another one, but for the faults that a control file tells it, and
 * writes down each C_Login, each C_Sign and each fault. Needs no PKCS#11 header: the function list is a version and then
 * pointers, whose order is fixed by PKCS#11 2.40 (pkcs11f.h); every argument is a word.
 *
 *   CONTROL_FILE, one fault a line, the first that fits is taken:
 *
 *     ID FUNCTION ACTION COUNT EVERY VALUE
 *
 *     ID        0 to 4095, never used again: what is left of it is counted in SPENT_FILE, over threads and processes
 *     FUNCTION  C_Sign, C_OpenSession, … or `any`
 *     ACTION    error   fails with the CK_RV VALUE
 *               delay   waits VALUE milliseconds, then passes the call on
 *               hang    does not return
 *               flip    passes C_Sign on and turns the bit VALUE of its answer over
 *               logout  calls C_Logout behind the caller's back, then passes the call on
 *               drop    the same with C_CloseAllSessions
 *     COUNT     so many times at most
 *     EVERY     only every so-manyth call that fits: 1 for each, 50 for one of fifty
 *
 * Thread safe: the file is read anew for every call and replaced by renaming, counters are atomic in a shared mapping, and
 * a line of the log is one write(2).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long w; /* CK_ULONG, a pointer, or a CK_BBOOL in the low byte */

enum { WORDS = 1 + 68, FAULTS = 4096 };
enum { LOGOUT = 1 + 19, CLOSE_ALL = 1 + 14, SESSION_INFO = 1 + 15 };

typedef struct {
  int id;
  char function[32], action[16];
  unsigned count, every;
  w value;
} fault_t;

/* What has been seen and taken of each fault; shared by every process that loads this module. */
static struct {
  uint32_t seen[FAULTS], taken[FAULTS];
} *spent;

static void *list[WORDS];
static void *real[WORDS];
static int log_fd = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void note(const char *line) {
  if (write(log_fd, line, strlen(line)) < 0) return;
}

/* Takes a fault for this call; 0 if there is none. */
static int take(const char *function, fault_t *fault) {
  char line[160];
  int found = 0;
  FILE *control = fopen(CONTROL_FILE, "re");
  if (!control) return 0;
  while (!found && fgets(line, sizeof line, control)) {
    if (sscanf(line, "%d %31s %15s %u %u %li", &fault->id, fault->function, fault->action, &fault->count, &fault->every,
               (long *)&fault->value) != 6)
      continue;
    if (fault->id < 0 || fault->id >= FAULTS || fault->every == 0) continue;
    if (strcmp(fault->function, "any") != 0 && strcmp(fault->function, function) != 0) continue;
    if ((__atomic_add_fetch(&spent->seen[fault->id], 1, __ATOMIC_SEQ_CST)) % fault->every != 0) continue;
    found = __atomic_fetch_add(&spent->taken[fault->id], 1, __ATOMIC_SEQ_CST) < fault->count;
  }
  fclose(control);
  return found;
}

static void wait_ms(w ms) {
  struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000L};
  while (nanosleep(&left, &left) != 0) continue;
}

static void drop_sessions(w session) {
  struct {
    w slot, state, flags, error;
  } info;
  if (((w(*)(w, void *))real[SESSION_INFO])(session, &info) == 0) ((w(*)(w))real[CLOSE_ALL])(info.slot);
}

/* Before a call: 1 if it must not be passed on, with its answer in `rv`. */
static int before(const char *function, w first, fault_t *fault, w *rv) {
  char line[96];
  const int faulty = take(function, fault);
  if (!faulty) {
    fault->action[0] = 0;
    if (strcmp(function, "C_Login") == 0) note("C_Login\n");
    if (strcmp(function, "C_Sign") == 0) note("C_Sign\n");
    return 0;
  }
  /* A login that is only delayed reaches the token all the same. */
  if (strcmp(function, "C_Login") == 0 && strcmp(fault->action, "error") != 0) note("C_Login\n");
  snprintf(line, sizeof line, "%s %s\n", function, fault->action);
  note(line);
  if (strcmp(fault->action, "hang") == 0)
    for (;;) pause();
  if (strcmp(fault->action, "delay") == 0) wait_ms(fault->value);
  if (strcmp(fault->action, "logout") == 0) ((w(*)(w))real[LOGOUT])(first);
  if (strcmp(fault->action, "drop") == 0) drop_sessions(first);
  if (strcmp(fault->action, "error") != 0) return 0;
  *rv = fault->value;
  return 1;
}

#define PARAMETERS_1 w a
#define PARAMETERS_2 w a, w b
#define PARAMETERS_3 w a, w b, w c
#define PARAMETERS_4 w a, w b, w c, w d
#define PARAMETERS_5 w a, w b, w c, w d, w e
#define PARAMETERS_6 w a, w b, w c, w d, w e, w f
#define PARAMETERS_8 w a, w b, w c, w d, w e, w f, w g, w h
#define NAMES_1 a
#define NAMES_2 a, b
#define NAMES_3 a, b, c
#define NAMES_4 a, b, c, d
#define NAMES_5 a, b, c, d, e
#define NAMES_6 a, b, c, d, e, f
#define NAMES_8 a, b, c, d, e, f, g, h

/* Name, place in the list, number of arguments. */
#define WRAPPED(F)            \
  F(C_Initialize, 0, 1)       \
  F(C_Finalize, 1, 1)         \
  F(C_GetSlotList, 4, 3)      \
  F(C_GetSlotInfo, 5, 2)      \
  F(C_GetTokenInfo, 6, 2)     \
  F(C_GetMechanismList, 7, 3) \
  F(C_InitToken, 9, 4)        \
  F(C_InitPIN, 10, 3)         \
  F(C_SetPIN, 11, 5)          \
  F(C_OpenSession, 12, 5)     \
  F(C_CloseSession, 13, 1)    \
  F(C_CloseAllSessions, 14, 1) \
  F(C_GetSessionInfo, 15, 2)  \
  F(C_Login, 18, 4)           \
  F(C_Logout, 19, 1)          \
  F(C_CreateObject, 20, 4)    \
  F(C_DestroyObject, 22, 2)   \
  F(C_GetAttributeValue, 24, 4) \
  F(C_SetAttributeValue, 25, 4) \
  F(C_FindObjectsInit, 26, 3) \
  F(C_FindObjects, 27, 4)     \
  F(C_SignInit, 42, 3)        \
  F(C_GenerateKey, 58, 5)     \
  F(C_GenerateKeyPair, 59, 8) \
  F(C_WrapKey, 60, 6)         \
  F(C_UnwrapKey, 61, 8)

#define DEFINE(name, place, arity)                                            \
  static w shim_##name(PARAMETERS_##arity) {                                  \
    fault_t fault;                                                            \
    w rv = 0;                                                                 \
    if (before(#name, a, &fault, &rv)) return rv;                             \
    return ((w(*)(PARAMETERS_##arity))real[1 + place])(NAMES_##arity);        \
  }
WRAPPED(DEFINE)

static w shim_C_Sign(w session, w data, w length, w out, w out_length) {
  fault_t fault;
  w rv = 0;
  if (before("C_Sign", session, &fault, &rv)) return rv;
  rv = ((w(*)(PARAMETERS_5))real[1 + 43])(session, data, length, out, out_length);
  if (rv == 0 && out && strcmp(fault.action, "flip") == 0) {
    const w bits = *(w *)out_length * 8;
    ((unsigned char *)out)[(fault.value % bits) / 8] ^= (unsigned char)(1u << (fault.value % 8));
  }
  return rv;
}

static void set_up(void) {
  const int fd = open(SPENT_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void *module = dlopen(REAL_MODULE, RTLD_NOW | RTLD_LOCAL);
  w (*get)(void ***) = module ? (w(*)(void ***))dlsym(module, "C_GetFunctionList") : 0;
  void **found = 0;
  log_fd = open(CALL_LOG, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0 || log_fd < 0 || !get || ftruncate(fd, sizeof *spent) != 0) return;
  spent = mmap(0, sizeof *spent, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (spent == MAP_FAILED || get(&found) != 0) return;
  memcpy(real, found, sizeof real);
  memcpy(list, found, sizeof list);
#define ENTER(name, place, arity) list[1 + place] = (void *)shim_##name;
  WRAPPED(ENTER)
  list[1 + 43] = (void *)shim_C_Sign;
}

w C_GetFunctionList(void ***out) {
  pthread_once(&once, set_up);
  if (!real[1]) return 5;
  *out = list;
  return 0;
}
