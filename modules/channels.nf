/*
 * What every workflow does with channels and files. Without includes of its own: a module that has some is loaded by
 * the strict parser once only.
 */

// A path of the samplesheet, or [] where the cell is empty: an input that is not there
def path_or_none(path) {
    return path ? file(path, glob: false) : []
}

// [ contrast ] of --contrasts, or by default every cluster against the rest in every modality, where there are two
def contrasts_of(json, modalities) {
    def given = new groovy.json.JsonSlurper().parse(json.toFile()).contrasts
    return given ?: modalities.collect { modality ->
        [contrast: "cluster_${modality}", modality: modality, groupby: 'cluster', target: 'each', reference: 'rest', cells: 'observed', optional: true]
    }
}

// Rows with fragments -> [ samples, their fragments, samples with a barcode map, those maps ]
def sources_of(rows) {
    def mapped = rows.findAll { row -> row.barcode_map }
    return [rows.collect { row -> row.sample }, rows.collect { row -> path_or_none(row.fragments) },
        mapped.collect { row -> row.sample }, mapped.collect { row -> path_or_none(row.barcode_map) }]
}

// channel of [ meta, ..., file ] -> one list of the files in the order of the names of samples (channel of one list),
// whatever the order of completion; of one sample by file name
def in_order(channel_of_tuples, ch_names) {
    return channel_of_tuples.toList()
        .map { tuples -> [tuples] }
        .combine(ch_names.map { names -> [names] })
        .map { tuples, names ->
            def place = names.withIndex().collectEntries { name, index -> [(name): index] }
            tuples.toSorted { one, other ->
                place.getOrDefault(one[0].sample, -1) <=> place.getOrDefault(other[0].sample, -1) ?: one.last().name <=> other.last().name
            }
                .collect { tuple -> tuple.last() }
        }
}

// channel of files -> one list in an order that does not depend on completion
def by_path(channel_of_files) {
    return channel_of_files.flatten().toSortedList { one, other -> one.toString() <=> other.toString() }
}
