"""torch.profiler over a step: kernels, phases and memory, for probes and for training loops."""
