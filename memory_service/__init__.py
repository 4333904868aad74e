"""The memory service: a FastAPI application over a byte-budgeted store of exemplar records.

Import :func:`memory_service.http.app.create_app`; nothing is built, opened or configured by importing this
package.
"""
