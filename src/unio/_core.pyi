# What unio._core has, the part of unio that is C (src/core). It is absent where it could not be compiled.
