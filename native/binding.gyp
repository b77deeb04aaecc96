{
  "targets": [
    {
      "target_name": "chancery",
      "sources": ["chancery.c"],
      "cflags": ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-fstack-protector-strong"],
      "ldflags": ["-Wl,-z,relro,-z,now"],
      "conditions": [["OS!='linux'", { "sources": ["linux-only"] }]]
    }
  ]
}
