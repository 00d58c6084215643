"""
What `check` finds in the notebooks that papermill and scrapbook ship: the codes of each, reviewed one by one.

None of them is a function: those without parameters have LSN005, the others LSN007.
"""

EXPECTED = {
    "papermill-binder": "LSN005",
    "papermill-blank-vscode": "LSN005",
    "papermill-broken": "LSN005 LSN009 LSN009",  # two prints of Python 2
    "papermill-broken1": "LSN005 LSN009",
    "papermill-broken2": "LSN005 LSN009",
    "papermill-complex_parameters": "LSN009",  # "= 2", planted; so nothing is known of its parameters
    "papermill-gcs-simple_notebook": "LSN005",  # counts of 0 are Colab's for "not run"
    "papermill-keyboard_interrupt": "LSN005",
    "papermill-line_magic_error": "LSN005",  # which magics there are is known to the kernel only
    "papermill-nb_version_4.4": "LSN007",
    "papermill-no_parameters": "LSN005",
    "papermill-notimplemented_translator": "",  # R: the payload comes another way
    "papermill-read_check": "LSN005",
    "papermill-report_mode_test": "LSN007",
    "papermill-result_no_exec": "LSN007 LSN017 LSN017",  # its two parameters are all that it has
    "papermill-s3-simple_notebook": "LSN007",
    "papermill-simple_execute": "LSN007",
    "papermill-sysexit": "LSN005",  # there is no job that could be ended
    "papermill-sysexit0": "LSN005",
    "papermill-sysexit1": "LSN005",
    "papermill-systemexit": "LSN005",
    "papermill-test_autosave": "LSN005",
    "papermill-test_logging": "LSN005 LSN013",  # ggplot
    "papermill-test_notebooknode_io": "LSN005",
    "scrapbook-record": "LSN005 LSN013",  # papermill, of which it uses what is long gone
    "scrapbook-result1": "LSN007 LSN017 LSN017",
    "scrapbook-result2": "LSN007 LSN017 LSN017",
    "scrapbook-result_no_exec": "LSN007 LSN017 LSN017",
}
