include { options ; quoted ; words } from '../shell'

// The samplesheet and the contrasts: columns, names, paths; all problems in one go
process CHECK_SAMPLESHEET {
    tag "${sheet.name}"
    label 'process_single'
    label 'image_cpu'

    input:
    path sheet, stageAs: 'samplesheet/*'
    path contrasts, stageAs: 'contrasts/*' // or []
    val base                               // folder that the sheet's relative paths start at
    val missing                            // [ path ] as written in the sheet, for which there is no file
    val settings                           // [ peak_group, replicate, labels, groups? ]: columns that must be there

    output:
    path 'samples.json', emit: samples // { samples: [ { sample, batch, rna, ..., metadata } ], contrasts: [ ... ] }
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    def lines = missing.collect { path -> quoted(path) }.join(' ')
    """
    printf '%s\\n' ${lines} > missing.txt
    multivi-nf-check-samplesheet --resources check_samplesheet.resources.json ${words(sheet)} \\
        ${options(base_dir: base, missing_files: 'missing.txt', contrasts: contrasts)} \\
        ${options(settings)} --output=samples.json
    """

    // The sheet decides what runs, so that a stub run needs it read too; it takes no data.
    stub:
    """
    multivi-nf-check-samplesheet --resources check_samplesheet.resources.json ${words(sheet)} \\
        ${options(base_dir: base, contrasts: contrasts)} ${options(settings)} --output=samples.json
    """
}
