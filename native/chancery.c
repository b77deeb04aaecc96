/*
 * What Node cannot do: ECDSA over a given digest, peer credentials of a unix socket, and keeping the process's memory
 * out of reach. OpenSSL is Node's own (its headers, its symbols in the running binary); nothing else is linked.
 *
 * Lengths are checked here as well as in index.ts: a wrong one must be an exception, never a read past a buffer.
 */
#define _GNU_SOURCE
#define OPENSSL_SUPPRESS_DEPRECATED
#define NAPI_VERSION 8
#include <node_api.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/obj_mac.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timex.h>

typedef struct {
  int nid;
  size_t size; /* octets of a coordinate and of a scalar */
} curve_t;

static const curve_t CURVES[3] = {
    {NID_X9_62_prime256v1, 32},
    {NID_secp384r1, 48},
    {NID_secp521r1, 66},
};

/* Made once for all threads (workers load the addon too) and only read afterwards; a group costs more than a parse. */
static EC_GROUP *groups[3];
static pthread_once_t groups_once = PTHREAD_ONCE_INIT;

static void make_groups(void) {
  for (int i = 0; i < 3; i++) groups[i] = EC_GROUP_new_by_curve_name(CURVES[i].nid);
}

static napi_value fail(napi_env env, const char *message) {
  napi_throw_error(env, NULL, message);
  return NULL;
}

static bool bytes_of(napi_env env, napi_value value, const unsigned char **bytes, size_t *length) {
  napi_typedarray_type type;
  void *start;
  bool is_typed_array;
  if (napi_is_typedarray(env, value, &is_typed_array) != napi_ok || !is_typed_array) return false;
  if (napi_get_typedarray_info(env, value, &type, length, &start, NULL, NULL) != napi_ok) return false;
  *bytes = start;
  return type == napi_uint8_array;
}

/* 1: the signature holds; 0: it does not, or the point is not on the curve; -1: OpenSSL could not work. */
static int verify(int curve, const unsigned char *point, const unsigned char *r, const unsigned char *s,
                  const unsigned char *digest, size_t digest_length) {
  const size_t size = CURVES[curve].size;
  int result = -1;
  EC_KEY *key = EC_KEY_new();
  ECDSA_SIG *signature = ECDSA_SIG_new();
  BIGNUM *r_number = BN_bin2bn(r, (int)size, NULL), *s_number = BN_bin2bn(s, (int)size, NULL);
  if (key == NULL || signature == NULL || r_number == NULL || s_number == NULL) goto done;
  if (groups[curve] == NULL || EC_KEY_set_group(key, groups[curve]) != 1) goto done;
  if (ECDSA_SIG_set0(signature, r_number, s_number) != 1) goto done;
  r_number = s_number = NULL; /* now the signature's */
  /* Checks the range of the coordinates and that the point is on the curve. */
  if (EC_KEY_oct2key(key, point, 1 + 2 * size, NULL) != 1) {
    result = 0;
    goto done;
  }
  /* -1 for r or s outside of 1..n-1 too: for the caller that is a signature that does not hold. */
  result = ECDSA_do_verify(digest, (int)digest_length, signature, key) == 1 ? 1 : 0;
done:
  BN_free(r_number);
  BN_free(s_number);
  ECDSA_SIG_free(signature);
  EC_KEY_free(key);
  ERR_clear_error(); /* else Node would report our leftovers with its own next error */
  return result;
}

/* verifyEcdsaDigest(curve 0..2, point, r, s, digest) */
static napi_value verify_ecdsa_digest(napi_env env, napi_callback_info info) {
  napi_value argument[5], answer;
  size_t count = 5, point_length, r_length, s_length, digest_length;
  const unsigned char *point, *r, *s, *digest;
  uint32_t curve;
  if (napi_get_cb_info(env, info, &count, argument, NULL, NULL) != napi_ok || count != 5) return fail(env, "five arguments");
  if (napi_get_value_uint32(env, argument[0], &curve) != napi_ok || curve > 2) return fail(env, "curve is not known");
  if (!bytes_of(env, argument[1], &point, &point_length) || !bytes_of(env, argument[2], &r, &r_length) ||
      !bytes_of(env, argument[3], &s, &s_length) || !bytes_of(env, argument[4], &digest, &digest_length))
    return fail(env, "point, r, s and digest are Uint8Array");
  const size_t size = CURVES[curve].size;
  if (point_length != 1 + 2 * size || point[0] != 4) return fail(env, "point is not an uncompressed one of its curve");
  if (r_length != size || s_length != size) return fail(env, "r or s does not have the length of the curve");
  if (digest_length < 28 || digest_length > 64) return fail(env, "digest is not 28 to 64 bytes");
  int result = verify(curve, point, r, s, digest, digest_length);
  if (result < 0) return fail(env, "openssl could not verify");
  return napi_get_boolean(env, result == 1, &answer) == napi_ok ? answer : NULL;
}

/* Since Linux 4.13; older headers do not have it. */
#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

/* More groups than any account has; a peer with more counts as one with its primary group alone. */
enum { MAX_PEER_GROUPS = 4096 };

/* peerCredentials(fd): [pid, uid, gid, ...supplementary gids] of the process that connected, as of connect(2). */
static napi_value peer_credentials(napi_env env, napi_callback_info info) {
  napi_value argument[1], answer, number;
  size_t count = 1;
  int32_t fd;
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (napi_get_cb_info(env, info, &count, argument, NULL, NULL) != napi_ok || count != 1 ||
      napi_get_value_int32(env, argument[0], &fd) != napi_ok || fd < 0)
    return fail(env, "file descriptor is not a number");
  /* On a socket that is not a unix one the kernel answers success, and uid -1. A pid of 0 alone is a peer of another
     pid namespace (another container), whose uid and gid are as good as any. */
  int domain = 0;
  socklen_t domain_length = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_length) != 0 || domain != AF_UNIX)
    return fail(env, "no unix socket on this file descriptor");
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || length != sizeof peer || peer.uid == (uid_t)-1)
    return fail(env, "no peer credentials on this file descriptor");
  gid_t groups[MAX_PEER_GROUPS];
  length = sizeof groups;
  /* A kernel that cannot tell the groups admits fewer peers, never more. */
  if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &length) != 0 || length > sizeof groups) length = 0;
  const double values[3] = {peer.pid, peer.uid, peer.gid};
  if (napi_create_array(env, &answer) != napi_ok) return NULL;
  for (uint32_t i = 0; i < 3 + length / sizeof groups[0]; i++)
    if (napi_create_double(env, i < 3 ? values[i] : groups[i - 3], &number) != napi_ok ||
        napi_set_element(env, answer, i, number) != napi_ok)
      return NULL;
  return answer;
}

/* No core file, no ptrace by the same user, /proc/self/mem owned by root. */
static napi_value set_not_dumpable(napi_env env, napi_callback_info info) {
  (void)info;
  const struct rlimit none = {0, 0};
  if (setrlimit(RLIMIT_CORE, &none) != 0) return fail(env, "setrlimit failed");
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) return fail(env, "prctl failed");
  return NULL;
}

/* kernelClock(): [1 if a time service keeps the clock, its greatest error in microseconds]; changes nothing. */
static napi_value kernel_clock(napi_env env, napi_callback_info info) {
  (void)info;
  struct timex state = {0};
  const int clock = adjtimex(&state);
  if (clock < 0) return fail(env, "adjtimex failed");
  const double values[2] = {clock != TIME_ERROR && (state.status & STA_UNSYNC) == 0, (double)state.maxerror};
  napi_value answer, number;
  if (napi_create_array(env, &answer) != napi_ok) return NULL;
  for (uint32_t i = 0; i < 2; i++)
    if (napi_create_double(env, values[i], &number) != napi_ok || napi_set_element(env, answer, i, number) != napi_ok)
      return NULL;
  return answer;
}

NAPI_MODULE_INIT() {
  pthread_once(&groups_once, make_groups);
  const napi_property_descriptor functions[] = {
      {"verifyEcdsaDigest", NULL, verify_ecdsa_digest, NULL, NULL, NULL, napi_enumerable, NULL},
      {"peerCredentials", NULL, peer_credentials, NULL, NULL, NULL, napi_enumerable, NULL},
      {"setNotDumpable", NULL, set_not_dumpable, NULL, NULL, NULL, napi_enumerable, NULL},
      {"kernelClock", NULL, kernel_clock, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  if (napi_define_properties(env, exports, 4, functions) != napi_ok) return fail(env, "addon could not be set up");
  return exports;
}
