/*
 * A PKCS#11 module for tests: passes everything on to another one, but for what a control file says of C_Sign, and
 * writes down each C_Login and C_Sign. Needs no PKCS#11 header: the function list is a version and then pointers, whose
 * order is fixed by PKCS#11 2.40 (pkcs11f.h).
 *
 *   CONTROL_FILE: "sign N RV" the next N calls fail with RV; "corrupt N 0" they give a wrong signature;
 *                 "hang N 0" they do not return.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long rv_t;
typedef unsigned long handle_t;

enum { LOGIN = 1 + 18, SIGN = 1 + 43, WORDS = 1 + 68 };

static void *list[WORDS];
static void *real[WORDS];

static void note(const char *what) {
  FILE *log = fopen(CALL_LOG, "a");
  if (!log) return;
  fprintf(log, "%s\n", what);
  fclose(log);
}

/* Takes one fault of the control file into `kind`; 0 if there is none. */
static int take(char kind[16], rv_t *rv) {
  int left = 0;
  FILE *control = fopen(CONTROL_FILE, "r");
  if (!control) return 0;
  int read = fscanf(control, "%15s %d %lu", kind, &left, rv);
  fclose(control);
  if (read != 3 || left <= 0) return 0;
  control = fopen(CONTROL_FILE, "w");
  if (control) {
    fprintf(control, "%s %d %lu\n", kind, left - 1, *rv);
    fclose(control);
  }
  return 1;
}

static rv_t shim_login(handle_t session, rv_t user, unsigned char *pin, unsigned long length) {
  note("C_Login");
  return ((rv_t(*)(handle_t, rv_t, unsigned char *, unsigned long))real[LOGIN])(session, user, pin, length);
}

static rv_t shim_sign(handle_t session, unsigned char *data, unsigned long length, unsigned char *out, unsigned long *out_length) {
  char kind[16] = "";
  rv_t rv = 0;
  int faulty = take(kind, &rv);
  note(faulty ? kind : "C_Sign");
  if (faulty && strcmp(kind, "hang") == 0) sleep(1000);
  if (faulty && strcmp(kind, "sign") == 0) return rv;
  rv_t result = ((rv_t(*)(handle_t, unsigned char *, unsigned long, unsigned char *, unsigned long *))real[SIGN])(
      session, data, length, out, out_length);
  if (faulty && strcmp(kind, "corrupt") == 0 && result == 0 && out) out[5] ^= 1;
  return result;
}

rv_t C_GetFunctionList(void ***out) {
  if (!real[1]) {
    void *module = dlopen(REAL_MODULE, RTLD_NOW | RTLD_LOCAL);
    if (!module) return 5;
    rv_t (*get)(void ***) = (rv_t(*)(void ***))dlsym(module, "C_GetFunctionList");
    void **found = 0;
    if (!get || get(&found) != 0) return 5;
    memcpy(real, found, sizeof real);
    memcpy(list, found, sizeof list);
    list[LOGIN] = (void *)shim_login;
    list[SIGN] = (void *)shim_sign;
  }
  *out = list;
  return 0;
}
