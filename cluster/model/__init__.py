"""ChatGLM3's configuration, module and checkpoint loader. The only place besides the runner that holds tensors."""
