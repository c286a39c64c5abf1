# What the compilation of llama-cpp-python leaves out. Its own CMakeLists.txt turns this on, and a
# variable that is set here goes before. The library is for the programs of llama.cpp, which the
# package does not contain; without it, the compilation takes less than half of the time.
set(LLAMA_BUILD_COMMON OFF)
