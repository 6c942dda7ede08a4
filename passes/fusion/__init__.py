"""Several ops that compute what one computes, made that one."""
