/*
 * What a run can be repeated by: its parameters and the versions of its programs.
 */

// The parameters as a -params-file that repeats the run
def parameters_text(settings) {
    def given = settings.findAll { name, value -> value != null && !(name in ['help', 'version', 'trace_report_suffix']) }
    return groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(given)) + '\n'
}

// [ [process, tool, version] ] -> nf-core's software_versions.yml
def versions_text(triples) {
    def named = triples.collectMany { step, tool, version ->
        tool == 'packages' ? version.tokenize().collect { word -> [step] + word.tokenize('=') } : [[step, tool, version]]
    }
    def steps = named.collect { step, tool, version -> [step.tokenize(':').last(), tool, version.trim()] }
    def all   = steps + [['Workflow', 'multivi-nf', workflow.manifest.version], ['Workflow', 'Nextflow', workflow.nextflow.version.toString()]]
    return all.unique().groupBy { triple -> triple[0] }.sort().collect { step, rows ->
        "${step}:\n" + rows.sort { row -> row[1] }.collect { row -> "    ${row[1]}: ${row[2]}\n" }.join()
    }.join()
}

// A small text under pipeline_info/
def write_info(settings, name, text) {
    def target = file("${settings.outdir}/pipeline_info/${name}", glob: false)
    target.parent.mkdirs()
    target.text = text
    System.setProperty("multivi_nf.published pipeline_info/${name}", '')
}
