"""TVM: a graph of ours as a Relax module, compiled by LLVM for the CPU.

Nothing of TVM is imported before a graph is lowered.
"""
