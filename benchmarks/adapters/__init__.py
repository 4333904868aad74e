"""A batch through each adapter over the same batch through the library's own buffer in memory."""
