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
    def named = triples.findAll { _step, tool, _version -> tool != 'purls' }.collectMany { step, tool, version ->
        tool == 'packages' ? version.tokenize().collect { word -> [step] + word.tokenize('=') } : [[step, tool, version]]
    }
    def steps = named.collect { step, tool, version -> [step.tokenize(':').last(), tool, version.trim()] }
    def all   = steps + [['Workflow', 'multivi-nf', workflow.manifest.version], ['Workflow', 'Nextflow', workflow.nextflow.version.toString()],
        ['Workflow', 'Java', System.getProperty('java.version')]]
    return all.unique().groupBy { triple -> triple[0] }.sort().collect { step, rows ->
        "${step}:\n" + rows.sort { row -> row[1] }.collect { row -> "    ${row[1]}: ${row[2]}\n" }.join()
    }.join()
}

// [ [process, 'purls', package URLs] ] -> one bill of materials (CycloneDX) of all that tasks ran with; same packages, same bytes
def bill_text(triples) {
    def found = triples.findAll { _step, tool, _words -> tool == 'purls' }
        .collectMany { step, _tool, words -> words.tokenize().collect { purl -> [purl, step.tokenize(':').last()] } }
    def own   = ["pkg:generic/nextflow@${workflow.nextflow.version}", "pkg:generic/java@${System.getProperty('java.version')}"]
        .collect { purl -> [purl.toString().replace('+', '%2B'), 'Workflow'] }
    def parts = (found + own).groupBy { pair -> pair[0] }.sort().collect { purl, pairs ->
        def named = (purl - 'pkg:').tokenize('?')[0].tokenize('/').last()
        [type: 'library', 'bom-ref': purl, name: named.take(named.lastIndexOf('@')), version: named.drop(named.lastIndexOf('@') + 1), purl: purl,
            properties: pairs.collect { pair -> pair[1] }.unique().sort().collect { step -> [name: 'multivi-nf:process', value: step] }]
    }
    def subject = [type: 'application', 'bom-ref': 'multivi-nf', name: 'multivi-nf', version: workflow.manifest.version]
    def bill    = [bomFormat: 'CycloneDX', specVersion: '1.6', version: 1, metadata: [component: subject], components: parts]
    return groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(bill)) + '\n'
}

// A small text under pipeline_info/
def write_info(settings, name, text) {
    def target = file("${settings.outdir}/pipeline_info/${name}", glob: false)
    try {
        target.parent.mkdirs()
        target.text = text
    }
    catch (IOException problem) {
        // In the form of messages.nf, which a module that several scripts include cannot include itself (parser v2 of 25.04)
        error("ERROR: ${settings.outdir}/pipeline_info/${name} cannot be written (${problem.class.simpleName}: ${problem.message})" +
            '\n  Why it matters: it is what the run can be repeated and checked by' +
            '\n  What to do: free space there, or name another folder with --outdir; then run the same again')
    }
    System.setProperty("multivi_nf.published pipeline_info/${name}", '')
}
